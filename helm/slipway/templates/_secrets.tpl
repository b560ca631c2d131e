{{- define "slipway.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.airflowSecret" -}}
{{- .Values.airflow.existingSecret | default (printf "%s-airflow" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.airflowAdminSecret" -}}
{{- .Values.airflow.admin.existingSecret | default (printf "%s-airflow-admin" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.mlflowSecret" -}}
{{- .Values.mlflow.existingSecret | default (printf "%s-mlflow" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.mlflowAdminSecret" -}}
{{- .Values.mlflow.admin.existingSecret | default (printf "%s-mlflow-admin" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.mlflowStepsSecret" -}}
{{- .Values.mlflow.steps.existingSecret | default (printf "%s-mlflow-steps" (include "slipway.fullname" .)) -}}
{{- end -}}

{{- define "slipway.signingSecret" -}}
{{- .Values.signing.existingSecret | default (printf "%s-signing" (include "slipway.fullname" .)) -}}
{{- end -}}

{{/* A Secret of the chart: root, name, component, data (plain text by key). What is in the cluster stays, unless it is named
     in `given`: a value that was made once survives upgrades, and `keep` has it survive an uninstall, as the data does. */}}
{{- define "slipway.secret" -}}
{{- $there := (lookup "v1" "Secret" .root.Release.Namespace .name).data | default dict -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  labels: {{- include "slipway.labels" . | nindent 4 }}
  annotations: {helm.sh/resource-policy: keep}
type: Opaque
data:
  {{- range $key, $value := .made }}
  {{ $key }}: {{ get $there $key | default ($value | b64enc) }}
  {{- end }}
  {{- range $key, $value := .given }}
  {{ $key }}: {{ $value | b64enc }}
  {{- end }}
{{- end -}}

{{/* One line for each key that an existing Secret lacks, or has empty: root, where, name, keys. Sees only what is there. */}}
{{- define "slipway.lacking" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- range .keys -}}
{{- if and $found (not (get ($found.data | default dict) .)) }}
{{ $.where }}: the Secret {{ $.name | quote }} has no value under the key {{ . | quote }}: add it, or correct the key's name
{{- end -}}
{{- end -}}
{{- end -}}
