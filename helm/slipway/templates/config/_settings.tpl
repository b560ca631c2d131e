{{- define "slipway.settings" -}}
SLIPWAY_RUNTIME: kubernetes
SLIPWAY_NAMESPACE: {{ .Release.Namespace }}
SLIPWAY_RELEASE: {{ include "slipway.fullname" . }}
SLIPWAY_STORE: {{ include "slipway.place" (dict "root" . "folder" "store") }}
SLIPWAY_MLFLOW_URI: {{ include "slipway.mlflowUrl" . }}
{{- if or .Values.airflow.enabled .Values.airflow.externalUrl }}
SLIPWAY_AIRFLOW_URL: {{ include "slipway.airflowUrl" . }}
{{- end }}
SLIPWAY_HOME: /tmp/slipway
SLIPWAY_SPECS_DIR: /etc/slipway/specs
SLIPWAY_SUITES_DIR: /etc/slipway/suites
SLIPWAY_PODS: /etc/slipway/policy/pods.yaml
SLIPWAY_SERVING: /etc/slipway/policy/serving.yaml
{{- end -}}
