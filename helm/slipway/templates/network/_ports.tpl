{{/* Ports of a NetworkPolicy, each once: a list of lists. */}}
{{- define "slipway.outerPorts" -}}
{{- $ports := list -}}
{{- range . }}{{ range . }}{{ $ports = append $ports (int .) }}{{ end }}{{ end -}}
{{- range $ports | uniq }}
- {port: {{ . }}, protocol: TCP}
{{- end }}
{{- end -}}

{{/* Where the promoter's judge and sigstore answer. */}}
{{- define "slipway.promoterPorts" -}}
{{- $ports := list -}}
{{- with .Values.judge.url }}{{ $ports = append $ports (include "slipway.port" .) }}{{ end -}}
{{- if eq .Values.signing.mode "sigstore" }}{{ $ports = append $ports "443" }}{{ end -}}
{{ $ports | toJson }}
{{- end -}}
