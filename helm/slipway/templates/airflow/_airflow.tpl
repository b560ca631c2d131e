{{/* The environment of every Airflow component: root, of (its values). */}}
{{- define "slipway.airflowEnv" -}}
{{- include "slipway.env" (dict "base" (include "slipway.airflowOwnEnv" .root) "extra" (list .root.Values.airflow.extraEnv .of.extraEnv)) -}}
{{- end -}}

{{- define "slipway.airflowOwnEnv" -}}
{{- $secret := include "slipway.airflowSecret" . -}}
{{ include "slipway.databaseEnv" . }}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
  value: {{ include "slipway.databaseUrl" (dict "root" . "database" .Values.database.airflowDatabase) | quote }}
- {name: AIRFLOW__CORE__EXECUTOR, value: dags.executor.LocalExecutor}
- {name: AIRFLOW__CORE__PARALLELISM, value: {{ .Values.airflow.parallelism | quote }}}
- {name: AIRFLOW__CORE__LOAD_EXAMPLES, value: "False"}
- {name: AIRFLOW__CORE__DAGS_FOLDER, value: /opt/slipway/app/dags}
- {name: AIRFLOW__CORE__AUTH_MANAGER, value: airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager}
- {name: AIRFLOW__CORE__HOSTNAME_CALLABLE, value: airflow.utils.net.get_host_ip_address}
- {name: AIRFLOW__CORE__EXECUTION_API_SERVER_URL, value: "{{ include "slipway.airflowUrl" . }}/execution/"}
- {name: AIRFLOW__API__BASE_URL, value: {{ include "slipway.airflowPublicUrl" . | quote }}}
{{- if or .Values.airflow.ingress.enabled .Values.airflow.publicUrl }}
- {name: AIRFLOW__FAB__ENABLE_PROXY_FIX, value: "True"} # else single sign-on would come back to http and a wrong host
{{- end }}
- {name: AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL, value: "15"}
- {name: AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL, value: "1"} # a slot is free again this long after its task has ended
- {name: AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL, value: "15"}
- {name: AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK, value: "True"}
- {name: AIRFLOW__LOGGING__COLORED_CONSOLE_LOG, value: "False"}
{{- if .Values.storage.persistentVolumeClaim.enabled }}
- {name: AIRFLOW__LOGGING__BASE_LOG_FOLDER, value: /var/lib/slipway/airflow/logs}
{{- end }}
{{- if .Values.airflow.webserverConfig }}
- {name: AIRFLOW__FAB__CONFIG_FILE, value: /etc/slipway/airflow/webserver_config.py}
{{- end }}
- name: AIRFLOW__CORE__FERNET_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: fernet-key}}
- name: AIRFLOW__API_AUTH__JWT_SECRET
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: jwt-secret}}
- name: AIRFLOW__API__SECRET_KEY
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: secret-key}}
{{- include "slipway.s3Env" . }}
{{- end -}}

{{/* What every container of Airflow has: root, of. */}}
{{- define "slipway.airflowContainer" -}}
image: {{ include "slipway.image" (dict "root" .root "image" .root.Values.images.airflow) }}
imagePullPolicy: {{ .root.Values.images.airflow.pullPolicy }}
envFrom:
  - configMapRef: {name: {{ include "slipway.fullname" .root }}-settings}
resources: {{- toYaml .of.resources | nindent 2 }}
securityContext: {{- include "slipway.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "slipway.dataMounts" .root | nindent 2 }}
  {{- if .root.Values.airflow.webserverConfig }}
  - {name: webserver-config, mountPath: /etc/slipway/airflow, readOnly: true}
  {{- end }}
  {{- with .of.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{- define "slipway.airflowVolumes" -}}
{{ include "slipway.dataVolumes" .root }}
{{- if .root.Values.airflow.webserverConfig }}
- name: webserver-config
  configMap: {name: {{ include "slipway.fullname" .root }}-webserver-config}
{{- end }}
{{- with .of.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* One component as a Deployment: root, name, of (its values), args, ports, probes, token. It waits for the migration. */}}
{{- define "slipway.airflowComponent" -}}
{{- $full := include "slipway.fullname" .root -}}
{{- $annotations := dict "checksum/settings" (include "slipway.settings" .root | sha256sum) -}}
{{- with .root.Values.airflow.webserverConfig }}{{ $_ := set $annotations "checksum/webserver-config" (sha256sum .) }}{{ end -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $full }}-{{ .name }}
  labels: {{- include "slipway.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  replicas: {{ .of.replicas }}
  revisionHistoryLimit: 3
  selector:
    matchLabels: {{- include "slipway.selector" (dict "root" .root "component" .name) | nindent 6 }}
  template:
    metadata: {{- include "slipway.podMetadata" (dict "root" .root "component" .name "of" .of "role" "airflow" "annotations" $annotations) | nindent 6 }}
    spec:
      {{- include "slipway.podSpec" (dict "root" .root "of" .of "account" "airflow" "token" .token) | nindent 6 }}
      terminationGracePeriodSeconds: 60
      initContainers:
        - name: wait
          command: [airflow, db, check-migrations, --migration-wait-timeout, "600"]
          env: {{- include "slipway.airflowEnv" . | nindent 12 }}
          {{- include "slipway.airflowContainer" . | nindent 10 }}
      containers:
        - name: {{ .name }}
          command: [airflow]
          args: {{ .args | toJson }}
          env: {{- include "slipway.airflowEnv" . | nindent 12 }}
          {{- include "slipway.airflowContainer" . | nindent 10 }}
          {{- with .ports }}
          ports: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- toYaml .probes | nindent 10 }}
      volumes: {{- include "slipway.airflowVolumes" . | nindent 8 }}
{{- end -}}
