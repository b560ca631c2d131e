{{/* pods.yaml: the platform's part of every step pod, read by dags/pod.py. */}}
{{- define "slipway.podsPolicy" -}}
{{- $full := include "slipway.fullname" . -}}
{{- $steps := .Values.steps -}}
namespace: {{ .Release.Namespace }}
image: {{ include "slipway.image" (dict "root" . "image" .Values.images.steps) }}
{{- if .Values.images.stepsGpu.repository }}
gpuImage: {{ include "slipway.image" (dict "root" . "image" .Values.images.stepsGpu) }}
{{- end }}
imagePullPolicy: {{ .Values.images.steps.pullPolicy }}
imagePullSecrets: {{ .Values.global.imagePullSecrets | toJson }}
serviceAccounts: {steps: {{ $full }}-steps, promoter: {{ $full }}-promoter}
labels: {{ merge (dict "app.kubernetes.io/name" "slipway" "app.kubernetes.io/instance" $full) $steps.podLabels | toJson }}
annotations: {{ $steps.podAnnotations | toJson }}
nodeSelector: {{ $steps.nodeSelector | toJson }}
tolerations: {{ $steps.tolerations | toJson }}
affinity: {{ $steps.affinity | toJson }}
priorityClassName: {{ $steps.priorityClassName | quote }}
resources: {{ $steps.resources | toJson }}
gpu: {{ $steps.gpu | toJson }}
startupTimeoutS: {{ $steps.startupTimeoutSeconds }}
env: {{- include "slipway.env" (dict "base" (include "slipway.stepEnv" .) "extra" (list $steps.extraEnv)) | nindent 2 }}
envFrom:
  - configMapRef: {name: {{ $full }}-settings}
volumes:
  {{- include "slipway.dataVolumes" . | nindent 2 }}
  {{- with $steps.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
volumeMounts:
  {{- include "slipway.dataMounts" . | nindent 2 }}
  {{- with $steps.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}
