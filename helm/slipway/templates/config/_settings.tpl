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
SLIPWAY_RAY: /etc/slipway/policy/ray.yaml
SLIPWAY_SIGNING: {{ .Values.signing.mode }}
{{- if eq .Values.signing.mode "key" }}
SLIPWAY_SIGNING_KEY: /etc/slipway/keys/signing.pem
SLIPWAY_VERIFY_KEY: /etc/slipway/keys/verify.pem
{{- else }}
SLIPWAY_SIGSTORE_IDENTITY: {{ .Values.signing.sigstore.identity | quote }}
SLIPWAY_SIGSTORE_ISSUER: {{ .Values.signing.sigstore.issuer | quote }}
{{- end }}
{{- with .Values.judge }}{{ if .url }}
SLIPWAY_JUDGE_URL: {{ .url }}
SLIPWAY_JUDGE_MODEL: {{ .model | quote }}
{{- end }}{{ end }}
{{- with .Values.openlineage.url }}
SLIPWAY_OPENLINEAGE_URL: {{ . }}
{{- end }}
{{- end -}}
