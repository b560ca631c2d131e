{{/* serving.yaml: the platform's part of every served version, read by serving/policy.py. */}}
{{- define "slipway.servingPolicy" -}}
{{- $full := include "slipway.fullname" . -}}
{{- $serving := .Values.serving -}}
namespace: {{ .Release.Namespace }}
release: {{ $full }}
owner: {kind: ConfigMap, name: {{ $full }}-policy}
replicas: {{ $serving.replicas }}
keepPreviousS: {{ $serving.keepPreviousSeconds }}
readyTimeoutS: {{ $serving.readyTimeoutSeconds }}
fetch:
  image: {{ include "slipway.image" (dict "root" . "image" .Values.images.steps) }}
  imagePullPolicy: {{ .Values.images.steps.pullPolicy }}
  resources: {{ $serving.fetch.resources | toJson }}
  env: {{- include "slipway.env" (dict "base" (include "slipway.s3Env" .) "extra" (list $serving.fetch.extraEnv)) | nindent 4 }}
  envFrom:
    - configMapRef: {name: {{ $full }}-settings}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- with include "slipway.keysMount" . }}{{ trim . | nindent 4 }}{{ end }}
    {{- if .Values.storage.persistentVolumeClaim.enabled }}
    - {name: store, mountPath: /var/lib/slipway, readOnly: true}
    {{- end }}
template: {{- include "slipway.tritonPod" . | nindent 2 }}
{{- include "slipway.autoscaler" $serving.autoscaling }}
{{- with $serving.gateway }}
{{- if .enabled }}
gateway:
  name: {{ .name }}
  namespace: {{ .namespace }}
  sectionName: {{ .sectionName | quote }}
  domain: {{ .domain }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "slipway.autoscaler" -}}
{{- if .keda.enabled }}
autoscaler:
  apiVersion: keda.sh/v1alpha1
  kind: ScaledObject
  spec:
    minReplicaCount: {{ .minReplicas }}
    maxReplicaCount: {{ .maxReplicas }}
    triggers:
      - type: prometheus
        metadata:
          serverAddress: {{ .keda.prometheusAddress | quote }}
          query: {{ .keda.query | quote }}
          threshold: {{ .keda.threshold | quote }}
{{- else if .enabled }}
autoscaler:
  apiVersion: autoscaling/v2
  kind: HorizontalPodAutoscaler
  spec:
    minReplicas: {{ .minReplicas }}
    maxReplicas: {{ .maxReplicas }}
    metrics:
      - type: Pods
        pods:
          metric: {name: {{ .metric }}}
          target: {type: AverageValue, averageValue: {{ .averageValue | quote }}}
{{- end }}
{{- end -}}
