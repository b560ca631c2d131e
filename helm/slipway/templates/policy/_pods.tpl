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
roles:
  {{- range $role := ternary (list "steps" "promoter" "trainer") (list "steps" "promoter") .Values.ray.enabled }}
  {{ $role }}:
    serviceAccount: {{ $full }}-{{ $role }}
    env: {{- include "slipway.env" (dict "base" (include (printf "slipway.%sEnv" (ternary "promoter" "steps" (eq $role "promoter"))) $) "extra" (list $steps.extraEnv)) | nindent 6 }}
    {{- if and (eq $role "promoter") (eq $.Values.signing.mode "key") }}
    volumes: {{- include "slipway.keysVolume" (dict "root" $ "keys" (list "signing.pem" "verify.pem")) | trim | nindent 6 }}
    volumeMounts: {{- include "slipway.keysMount" $ | trim | nindent 6 }}
    {{- end }}
  {{- end }}
labels: {{ merge (dict "app.kubernetes.io/name" "slipway" "app.kubernetes.io/instance" $full) $steps.podLabels | toJson }}
annotations: {{ $steps.podAnnotations | toJson }}
nodeSelector: {{ $steps.nodeSelector | toJson }}
tolerations: {{ $steps.tolerations | toJson }}
affinity: {{ $steps.affinity | toJson }}
priorityClassName: {{ $steps.priorityClassName | quote }}
resources: {{ $steps.resources | toJson }}
gpu: {{ $steps.gpu | toJson }}
startupTimeoutS: {{ $steps.startupTimeoutSeconds }}
envFrom:
  - configMapRef: {name: {{ $full }}-settings}
volumes:
  {{- include "slipway.dataVolumes" . | nindent 2 }}
  {{- with $steps.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
volumeMounts:
  {{- include "slipway.dataMounts" . | nindent 2 }}
  {{- with $steps.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}
