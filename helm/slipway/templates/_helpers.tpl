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

{{- define "slipway.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "slipway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What the platform team may set of every pod: placement and pull secrets. */}}
{{- define "slipway.placement" -}}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "slipway.mlflowUrl" -}}
{{- .Values.mlflow.externalUrl | default (printf "http://%s-mlflow:5000" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.airflowUrl" -}}
{{- .Values.airflow.externalUrl | default (printf "http://%s-api-server:8080" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.databaseHost" -}}
{{- if .Values.postgresql.enabled -}}{{ include "slipway.fullname" . }}-postgresql{{- else -}}{{ .Values.database.host }}{{- end -}}
{{- end -}}

{{- define "slipway.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.claim" -}}
{{- .Values.storage.persistentVolumeClaim.existingClaim | default (include "slipway.fullname" .) -}}
{{- end -}}

{{- define "slipway.store" -}}
{{- if .Values.storage.s3.enabled -}}s3://{{ .Values.storage.s3.bucket }}{{ with .Values.storage.s3.prefix }}/{{ . }}{{ end }}/store{{- else -}}/var/lib/slipway/store{{- end -}}
{{- end -}}

{{/* The password reaches libpq and asyncpg by PGPASSWORD, so that no URL has to quote it. */}}
{{- define "slipway.databaseEnv" -}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "slipway.databaseSecret" . }}, key: {{ .Values.database.passwordKey }}}}
- name: PGSSLMODE
  value: {{ ternary "disable" .Values.database.sslMode .Values.postgresql.enabled }}
{{- end -}}

{{- define "slipway.s3Env" -}}
{{- with .Values.storage.s3 }}{{- if .enabled }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .accessKeyIdKey }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .secretAccessKeyKey }}}}
{{- with .region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .endpointUrl }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- end }}{{- end }}
{{- end -}}

{{- define "slipway.mlflowSecret" -}}
{{- .Values.mlflow.admin.existingSecret | default (printf "%s-mlflow" (include "slipway.fullname" .)) -}}
{{- end -}}

{{/* What a step needs to reach MLflow and the store. */}}
{{- define "slipway.stepEnv" -}}
- name: MLFLOW_TRACKING_USERNAME
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowSecret" . }}, key: {{ .Values.mlflow.admin.usernameKey }}}}
- name: MLFLOW_TRACKING_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowSecret" . }}, key: {{ .Values.mlflow.admin.passwordKey }}}}
{{- include "slipway.s3Env" . }}
{{- end -}}

{{/* Volumes of whatever reads specs and the store. */}}
{{- define "slipway.dataVolumes" -}}
- {name: tmp, emptyDir: {}}
- name: specs
  projected:
    sources:
      - configMap: {name: {{ include "slipway.fullname" . }}-specs}
      {{- with .Values.specs.existingConfigMap }}
      - configMap: {name: {{ . }}}
      {{- end }}
- name: suites
  projected:
    sources:
      - configMap: {name: {{ include "slipway.fullname" . }}-suites}
      {{- with .Values.suites.existingConfigMap }}
      - configMap: {name: {{ . }}}
      {{- end }}
- name: policy
  configMap: {name: {{ include "slipway.fullname" . }}-policy}
{{- if .Values.storage.persistentVolumeClaim.enabled }}
- name: store
  persistentVolumeClaim: {claimName: {{ include "slipway.claim" . }}}
{{- end }}
{{- end -}}

{{- define "slipway.dataMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: specs, mountPath: /etc/slipway/specs, readOnly: true}
- {name: suites, mountPath: /etc/slipway/suites, readOnly: true}
- {name: policy, mountPath: /etc/slipway/policy, readOnly: true}
{{- if .Values.storage.persistentVolumeClaim.enabled }}
- {name: store, mountPath: /var/lib/slipway}
{{- end }}
{{- end -}}

{{/* A secret value that upgrades keep: what is there stays, else it is made once. */}}
{{- define "slipway.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if and $found (hasKey ($found.data | default dict) .key) -}}
{{- index $found.data .key -}}
{{- else -}}
{{- .value | b64enc -}}
{{- end -}}
{{- end -}}
