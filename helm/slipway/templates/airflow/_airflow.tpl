{{/* The environment of every Airflow component. */}}
{{- define "slipway.airflowEnv" -}}
{{- $full := include "slipway.fullname" . -}}
{{- $secret := .Values.airflow.existingSecret | default (printf "%s-airflow" $full) -}}
{{ include "slipway.databaseEnv" . }}
- name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
  value: {{ printf "postgresql+psycopg://%s@%s:%d/%s" .Values.database.user (include "slipway.databaseHost" .) (int .Values.database.port) .Values.database.airflowDatabase | quote }}
- {name: AIRFLOW__CORE__EXECUTOR, value: LocalExecutor}
- {name: AIRFLOW__CORE__PARALLELISM, value: {{ .Values.airflow.parallelism | quote }}}
- {name: AIRFLOW__CORE__LOAD_EXAMPLES, value: "False"}
- {name: AIRFLOW__CORE__DAGS_FOLDER, value: /opt/slipway/app/dags}
- {name: AIRFLOW__CORE__AUTH_MANAGER, value: airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager}
- {name: AIRFLOW__CORE__HOSTNAME_CALLABLE, value: airflow.utils.net.get_host_ip_address}
- {name: AIRFLOW__CORE__EXECUTION_API_SERVER_URL, value: "{{ include "slipway.airflowUrl" . }}/execution/"}
- {name: AIRFLOW__API__BASE_URL, value: {{ .Values.airflow.publicUrl | default (include "slipway.airflowUrl" .) | quote }}}
- {name: AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL, value: "15"}
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
{{- with .Values.airflow.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "slipway.airflowMounts" -}}
{{ include "slipway.dataMounts" . }}
{{- if .Values.airflow.webserverConfig }}
- {name: webserver-config, mountPath: /etc/slipway/airflow, readOnly: true}
{{- end }}
{{- end -}}

{{- define "slipway.airflowVolumes" -}}
{{ include "slipway.dataVolumes" . }}
{{- if .Values.airflow.webserverConfig }}
- name: webserver-config
  configMap: {name: {{ include "slipway.fullname" . }}-webserver-config}
{{- end }}
{{- end -}}

{{/* One component as a Deployment: root, name, of (its values), args, ports, probes, token. */}}
{{- define "slipway.airflowComponent" -}}
{{- $full := include "slipway.fullname" .root -}}
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
    metadata:
      labels:
        {{- include "slipway.labels" (dict "root" .root "component" .name) | nindent 8 }}
        slipway.dev/role: airflow
        {{- with .of.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        checksum/config: {{ include (print .root.Template.BasePath "/config.yaml") .root | sha256sum }}
        {{- if .root.Values.airflow.webserverConfig }}
        checksum/webserver: {{ .root.Values.airflow.webserverConfig | sha256sum }}
        {{- end }}
        {{- with .of.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      serviceAccountName: {{ $full }}-airflow
      automountServiceAccountToken: {{ .token }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      securityContext: {{- include "slipway.podSecurity" . | nindent 8 }}
      {{- include "slipway.placement" (dict "root" .root "of" .of) | nindent 6 }}
      initContainers:
        - name: wait
          image: {{ include "slipway.image" (dict "root" .root "image" .root.Values.images.airflow) }}
          imagePullPolicy: {{ .root.Values.images.airflow.pullPolicy }}
          command: [airflow, db, check-migrations, --migration-wait-timeout, "600"]
          env: {{- include "slipway.airflowEnv" .root | nindent 12 }}
          envFrom:
            - configMapRef: {name: {{ $full }}-settings}
          resources: {{- toYaml .of.resources | nindent 12 }}
          securityContext: {{- include "slipway.restricted" . | nindent 12 }}
          volumeMounts: {{- include "slipway.airflowMounts" .root | nindent 12 }}
      containers:
        - name: {{ .name }}
          image: {{ include "slipway.image" (dict "root" .root "image" .root.Values.images.airflow) }}
          imagePullPolicy: {{ .root.Values.images.airflow.pullPolicy }}
          command: [airflow]
          args: {{ .args | toJson }}
          env: {{- include "slipway.airflowEnv" .root | nindent 12 }}
          envFrom:
            - configMapRef: {name: {{ $full }}-settings}
          {{- with .ports }}
          ports: {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- toYaml .probes | nindent 10 }}
          resources: {{- toYaml .of.resources | nindent 12 }}
          securityContext: {{- include "slipway.restricted" . | nindent 12 }}
          volumeMounts:
            {{- include "slipway.airflowMounts" .root | nindent 12 }}
            {{- with .of.extraVolumeMounts }}{{ toYaml . | nindent 12 }}{{ end }}
      volumes:
        {{- include "slipway.airflowVolumes" .root | nindent 8 }}
        {{- with .of.extraVolumes }}{{ toYaml . | nindent 8 }}{{ end }}
{{- end -}}
