{{/* Who may ask MLflow: it refuses a Host header that is not on this list. */}}
{{- define "slipway.mlflowHosts" -}}
{{- $service := printf "%s-mlflow" (include "slipway.fullname" .) -}}
{{- $namespace := .Release.Namespace -}}
{{- $hosts := list -}}
{{- range list "localhost" "127.0.0.1" $service (printf "%s.%s" $service $namespace) (printf "%s.%s.svc" $service $namespace) (printf "%s.%s.svc.cluster.local" $service $namespace) -}}
{{- $hosts = concat $hosts (list . (printf "%s:5000" .)) -}}
{{- end -}}
{{- with .Values.mlflow.ingress }}{{ if .enabled }}{{ $hosts = append $hosts .host }}{{ end }}{{ end -}}
{{- concat $hosts .Values.mlflow.allowedHosts | join "," -}}
{{- end -}}

{{- define "slipway.mlflowConfig" -}}
[mlflow]
default_permission = READ
database_uri = {{ include "slipway.databaseUrl" (dict "root" . "database" .Values.database.mlflowDatabase) }}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = 30
{{- end -}}

{{- define "slipway.mlflowEnv" -}}
- {name: DATABASE, value: {{ include "slipway.databaseUrl" (dict "root" . "database" .Values.database.mlflowDatabase) | quote }}}
{{ include "slipway.databaseEnv" . }}
{{- include "slipway.s3Env" . }}
- {name: MLFLOW_AUTH_CONFIG_PATH, value: /etc/slipway/mlflow/basic_auth.ini}
- name: MLFLOW_AUTH_ADMIN_USERNAME
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowAdminSecret" . }}, key: {{ .Values.mlflow.admin.usernameKey }}}}
- name: MLFLOW_AUTH_ADMIN_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowAdminSecret" . }}, key: {{ .Values.mlflow.admin.passwordKey }}}}
- name: STEPS_USERNAME
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowStepsSecret" . }}, key: {{ .Values.mlflow.steps.usernameKey }}}}
- name: STEPS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowStepsSecret" . }}, key: {{ .Values.mlflow.steps.passwordKey }}}}
- name: MLFLOW_FLASK_SERVER_SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ include "slipway.mlflowSecret" . }}, key: flask-secret}}
- {name: MLFLOW_SERVER_ENABLE_JOB_EXECUTION, value: "false"}
- {name: MLFLOW_DISABLE_TELEMETRY, value: "true"}
{{- end -}}

{{/* The two users, and what `steps` may do: all that a run needs of experiments, and nothing in the registry of models
     and of prompts, which share their names: who may make a model there may move its alias. */}}
{{- define "slipway.mlflowUsers" -}}
import os
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

if os.environ["MLFLOW_AUTH_ADMIN_USERNAME"] == os.environ["STEPS_USERNAME"]:
    raise SystemExit("mlflow.admin and mlflow.steps name one user: who trains must not be who promotes")
store = SqlAlchemyStore()
store.init_db(os.environ["DATABASE"])
for prefix, is_admin in (("MLFLOW_AUTH_ADMIN", True), ("STEPS", False)):
    user, password = os.environ[f"{prefix}_USERNAME"], os.environ[f"{prefix}_PASSWORD"]
    if store.has_user(user):
        store.update_user(user, password=password, is_admin=is_admin)
    else:
        store.create_user(user, password, is_admin=is_admin)
may = {"experiment": "EDIT", "run": "MANAGE", "registered_model": "DENY", "prompt": "DENY"}
for resource, permission in may.items():
    store.grant_user_permission(os.environ["STEPS_USERNAME"], resource, "*", permission)
{{- end -}}

{{- define "slipway.mlflowFiles" -}}
{{ dict "basic_auth.ini" (include "slipway.mlflowConfig" .) "users.py" (include "slipway.mlflowUsers" .) | toYaml }}
{{- end -}}

{{/* What both containers of MLflow have. */}}
{{- define "slipway.mlflowContainer" -}}
{{- $mlflow := .Values.mlflow -}}
image: {{ include "slipway.image" (dict "root" . "image" .Values.images.mlflow) }}
imagePullPolicy: {{ .Values.images.mlflow.pullPolicy }}
env: {{- include "slipway.env" (dict "base" (include "slipway.mlflowEnv" .) "extra" (list $mlflow.extraEnv)) | nindent 2 }}
resources: {{- toYaml $mlflow.resources | nindent 2 }}
securityContext: {{- include "slipway.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: config, mountPath: /etc/slipway/mlflow, readOnly: true}
  {{- with include "slipway.storeMount" . }}{{ trim . | nindent 2 }}{{ end }}
  {{- with $mlflow.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}
