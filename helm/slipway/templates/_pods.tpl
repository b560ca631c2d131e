{{/* Labels and annotations of a pod: root, component, of (its values), role, annotations. The chart's own win. */}}
{{- define "slipway.podMetadata" -}}
{{- $labels := include "slipway.labels" . | fromYaml -}}
{{- with .role }}{{ $_ := set $labels "slipway.dev/role" . }}{{ end -}}
labels: {{- merge $labels .of.podLabels | toYaml | nindent 2 }}
{{- with merge (.annotations | default dict) .of.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Who a pod is, what it may do, where it goes: root, of, account; token, user. Restricted, in Pod Security's sense. */}}
{{- define "slipway.podSpec" -}}
{{- $user := .user | default 10001 -}}
serviceAccountName: {{ include "slipway.fullname" .root }}-{{ .account }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $user }}
  runAsGroup: {{ $user }}
  fsGroup: {{ $user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" }}
{{- with get $.of $key }}
{{ $key }}: {{- if kindIs "string" . }} {{ . }}{{ else }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "slipway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* An environment in which what was given (extra, lists) replaces what the chart says (base, as text). */}}
{{- define "slipway.env" -}}
{{- $extra := list -}}
{{- range .extra }}{{ $extra = concat $extra . }}{{ end -}}
{{- $given := dict -}}
{{- range $extra }}{{ $_ := set $given .name true }}{{ end -}}
{{- $env := list -}}
{{- range fromYamlArray .base }}{{ if not (hasKey $given .name) }}{{ $env = append $env . }}{{ end }}{{ end -}}
{{- with concat $env $extra }}{{ toYaml . }}{{ else }}[]{{ end }}
{{- end -}}
