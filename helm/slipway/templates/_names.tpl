{{- define "slipway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{/* Served objects begin with this name, so it is short: a model's name and version follow. */}}
{{- define "slipway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else if contains (include "slipway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "slipway.name" .) | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "slipway.selector" -}}
app.kubernetes.io/name: slipway
app.kubernetes.io/instance: {{ include "slipway.fullname" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "slipway.labels" -}}
{{ include "slipway.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* An image reference: a digest wins over a tag, the global registry comes first. */}}
{{- define "slipway.image" -}}
{{- $image := .image -}}
{{- $repository := $image.repository -}}
{{- with .root.Values.global.imageRegistry -}}{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}{{- end -}}
{{- if $image.digest -}}{{ $repository }}@{{ $image.digest }}{{- else -}}{{ $repository }}:{{ $image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* The address of a page: what was given, else what its Ingress says, else the Service. */}}
{{- define "slipway.mlflowUrl" -}}
{{- .Values.mlflow.externalUrl | default (printf "http://%s-mlflow:5000" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.airflowUrl" -}}
{{- .Values.airflow.externalUrl | default (printf "http://%s-api-server:8080" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.airflowPublicUrl" -}}
{{- $ingress := .Values.airflow.ingress -}}
{{- $own := include "slipway.airflowUrl" . -}}
{{- if $ingress.enabled -}}{{- $own = printf "%s://%s" (ternary "https" "http" (ne $ingress.tlsSecret "")) $ingress.host -}}{{- end -}}
{{- .Values.airflow.publicUrl | default $own -}}
{{- end -}}

{{/* The port of a URL. */}}
{{- define "slipway.port" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end -}}

{{/* The roles of this release, one service account each. An existing Airflow, too, starts pods here as `airflow`. */}}
{{- define "slipway.roles" -}}
steps airflow
{{- if .Values.serving.enabled }} promoter{{ end }}
{{- if .Values.ray.enabled }} trainer{{ end }}
{{- if .Values.mlflow.enabled }} mlflow{{ end }}
{{- end -}}
