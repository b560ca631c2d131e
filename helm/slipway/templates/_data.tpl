{{- define "slipway.databaseHost" -}}
{{- if .Values.postgresql.enabled -}}{{ include "slipway.fullname" . }}-postgresql{{- else -}}{{ .Values.database.host }}{{- end -}}
{{- end -}}

{{/* A database's URL: root, database. The password reaches libpq and asyncpg by PGPASSWORD, so that no URL has to quote it. */}}
{{- define "slipway.databaseUrl" -}}
{{- printf "postgresql+psycopg://%s@%s:%d/%s" .root.Values.database.user (include "slipway.databaseHost" .root) (int .root.Values.database.port) .database -}}
{{- end -}}

{{- define "slipway.databaseEnv" -}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "slipway.databaseSecret" . }}, key: {{ .Values.database.passwordKey }}}}
- name: PGSSLMODE
  value: {{ ternary "disable" .Values.database.sslMode .Values.postgresql.enabled }}
{{- end -}}

{{- define "slipway.claim" -}}
{{- .Values.storage.persistentVolumeClaim.existingClaim | default (include "slipway.fullname" .) -}}
{{- end -}}

{{/* A place in the store: root, folder. */}}
{{- define "slipway.place" -}}
{{- with .root.Values.storage.s3 -}}
{{- if .enabled -}}s3://{{ .bucket }}{{ with .prefix }}/{{ . }}{{ end }}/{{ $.folder }}{{- else -}}/var/lib/slipway/{{ $.folder }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "slipway.storePort" -}}
{{- include "slipway.port" (.Values.storage.s3.endpointUrl | default "https://s3") -}}
{{- end -}}

{{- define "slipway.s3Env" -}}
{{- with .Values.storage.s3 }}{{- if .enabled }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .accessKeyIdKey }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .secretAccessKeyKey }}}}
{{- end }}
{{- with .region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .endpointUrl }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- end }}{{- end }}
{{- end -}}

{{/* Who a process is in MLflow: root, of (the values of a user), secret. */}}
{{- define "slipway.mlflowUser" -}}
- name: MLFLOW_TRACKING_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .of.usernameKey }}}}
- name: MLFLOW_TRACKING_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .of.passwordKey }}}}
{{- end -}}

{{/* A key of an outside service, where a Secret is named: name of the variable, of (its values). */}}
{{- define "slipway.apiKey" -}}
{{- if .of.existingSecret }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .of.existingSecret }}, key: {{ .of.apiKeyKey }}}}
{{- end }}
{{- end -}}

{{/* The environment of what trains: it reaches the store and its own part of MLflow. */}}
{{- define "slipway.stepsEnv" -}}
{{ include "slipway.mlflowUser" (dict "of" .Values.mlflow.steps "secret" (include "slipway.mlflowStepsSecret" .)) }}
{{- include "slipway.s3Env" . }}
{{- include "slipway.apiKey" (dict "name" "SLIPWAY_OPENLINEAGE_KEY" "of" .Values.openlineage) }}
{{- end -}}

{{/* The environment of the promoter: it writes MLflow's registry, signs, and has text judged. */}}
{{- define "slipway.promoterEnv" -}}
{{ include "slipway.mlflowUser" (dict "of" .Values.mlflow.admin "secret" (include "slipway.mlflowAdminSecret" .)) }}
{{- include "slipway.s3Env" . }}
{{- include "slipway.apiKey" (dict "name" "SLIPWAY_OPENLINEAGE_KEY" "of" .Values.openlineage) }}
{{- include "slipway.apiKey" (dict "name" "SLIPWAY_JUDGE_KEY" "of" .Values.judge) }}
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
{{- include "slipway.storeVolume" . }}
{{- end -}}

{{- define "slipway.dataMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: specs, mountPath: /etc/slipway/specs, readOnly: true}
- {name: suites, mountPath: /etc/slipway/suites, readOnly: true}
- {name: policy, mountPath: /etc/slipway/policy, readOnly: true}
{{- include "slipway.storeMount" . }}
{{- end -}}

{{- define "slipway.storeVolume" -}}
{{- if .Values.storage.persistentVolumeClaim.enabled }}
- name: store
  persistentVolumeClaim: {claimName: {{ include "slipway.claim" . }}}
{{- end }}
{{- end -}}

{{- define "slipway.storeMount" -}}
{{- if .Values.storage.persistentVolumeClaim.enabled }}
- {name: store, mountPath: /var/lib/slipway}
{{- end }}
{{- end -}}

{{/* The keys of signatures, as far as a pod may have them: root, keys (of the Secret). */}}
{{- define "slipway.keysVolume" -}}
{{- if eq .root.Values.signing.mode "key" }}
- name: keys
  secret:
    secretName: {{ include "slipway.signingSecret" .root }}
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- end -}}

{{- define "slipway.keysMount" -}}
{{- if eq .Values.signing.mode "key" }}
- {name: keys, mountPath: /etc/slipway/keys, readOnly: true}
{{- end }}
{{- end -}}
