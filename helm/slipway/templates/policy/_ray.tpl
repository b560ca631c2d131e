{{/* ray.yaml: the platform's part of every RayJob, read by training/on_ray/policy.py. Its pods are steps, in two sizes. */}}
{{- define "slipway.rayPolicy" -}}
{{- $full := include "slipway.fullname" . -}}
{{- $steps := .Values.steps -}}
{{- $ray := .Values.ray -}}
namespace: {{ .Release.Namespace }}
owner: {kind: ConfigMap, name: {{ $full }}-policy}
{{- if .Values.images.stepsGpu.repository }}
gpuImage: {{ include "slipway.image" (dict "root" . "image" .Values.images.stepsGpu) }}
{{- end }}
maxWorkers: {{ $ray.maxWorkers }}
startupTimeoutS: {{ $ray.startupTimeoutSeconds }}
deadlineS: {{ $ray.deadlineSeconds }}
keepS: {{ $ray.keepSeconds }}
head: {{ $ray.head.resources | toJson }}
worker: {{ $ray.worker.resources | toJson }}
gpu: {{ $steps.gpu | toJson }}
template:
  metadata:
    labels: {{ merge (dict "app.kubernetes.io/name" "slipway" "app.kubernetes.io/instance" $full "app.kubernetes.io/component" "ray" "slipway.dev/role" "steps") $steps.podLabels | toJson }}
    annotations: {{ $steps.podAnnotations | toJson }}
  spec:
    {{- include "slipway.podSpec" (dict "root" . "of" $steps "account" "steps") | nindent 4 }}
    containers:
      - name: ray
        image: {{ include "slipway.image" (dict "root" . "image" .Values.images.steps) }}
        imagePullPolicy: {{ .Values.images.steps.pullPolicy }}
        env: {{- include "slipway.env" (dict "base" (include "slipway.stepsEnv" .) "extra" (list $steps.extraEnv)) | nindent 10 }}
        envFrom:
          - configMapRef: {name: {{ $full }}-settings}
        securityContext: {{- include "slipway.containerSecurity" . | nindent 10 }}
        volumeMounts:
          {{- include "slipway.dataMounts" . | nindent 10 }}
          {{- with $steps.extraVolumeMounts }}{{ toYaml . | nindent 10 }}{{ end }}
    volumes:
      {{- include "slipway.dataVolumes" . | nindent 6 }}
      {{- with $steps.extraVolumes }}{{ toYaml . | nindent 6 }}{{ end }}
{{- end -}}
