{{/* The pod template of Triton, which each rollout makes into a version (serving/manifests.py). */}}
{{- define "slipway.tritonPod" -}}
{{- $triton := .Values.serving.triton -}}
{{- $resources := deepCopy $triton.resources -}}
{{- if $triton.gpus }}
{{- $gpus := dict $triton.gpuResource (toString $triton.gpus) }}
{{- range list "requests" "limits" }}{{ $_ := set $resources . (merge (deepCopy $gpus) (get $resources . | default dict)) }}{{ end }}
{{- end -}}
metadata:
  labels: {{ $triton.podLabels | toJson }}
  annotations: {{ $triton.podAnnotations | toJson }}
spec:
  {{- include "slipway.podSpec" (dict "root" . "of" $triton "account" "steps") | nindent 2 }}
  terminationGracePeriodSeconds: {{ $triton.terminationGracePeriodSeconds }}
  {{- with $triton.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: triton
      image: {{ include "slipway.image" (dict "root" . "image" .Values.images.triton) }}
      imagePullPolicy: {{ .Values.images.triton.pullPolicy }}
      args: {{ $triton.extraArgs | toJson }}
      env: {{ $triton.extraEnv | toJson }}
      ports:
        - {name: http, containerPort: 8000}
        - {name: grpc, containerPort: 8001}
        - {name: metrics, containerPort: 8002}
      resources: {{ $resources | toJson }}
      {{- if $triton.drainSeconds }}
      lifecycle: {preStop: {sleep: {seconds: {{ $triton.drainSeconds }}}}}
      {{- end }}
      securityContext: {{- include "slipway.containerSecurity" . | nindent 8 }}
      startupProbe:
        httpGet: {path: /v2/health/ready, port: http}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: {{ div (add .Values.serving.readyTimeoutSeconds 1) 2 }}
      {{- if eq $triton.probe "inference" }}
      readinessProbe:
        exec: {command: [/opt/slipway/bin/answers]}
        periodSeconds: 5
        timeoutSeconds: 6
        failureThreshold: 2
      livenessProbe:
        exec: {command: [/opt/slipway/bin/answers]}
        periodSeconds: 10
        timeoutSeconds: 6
        failureThreshold: 3
        terminationGracePeriodSeconds: 5  # who does not answer has nothing to drain
      {{- else }}
      readinessProbe:
        httpGet: {path: /v2/health/ready, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        httpGet: {path: /v2/health/live, port: http}
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 6
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- with $triton.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - {name: tmp, emptyDir: {}}
    {{- with include "slipway.keysVolume" (dict "root" . "keys" (list "verify.pem")) }}{{ trim . | nindent 4 }}{{ end }}
    {{- with include "slipway.storeVolume" . }}{{ trim . | nindent 4 }}{{ end }}
    {{- with $triton.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}
