{{/* Ports of a NetworkPolicy, each once: a list of lists. */}}
{{- define "slipway.outerPorts" -}}
{{- $ports := list -}}
{{- range . }}{{ range . }}{{ $ports = append $ports (int .) }}{{ end }}{{ end -}}
{{- range $ports | uniq }}
- {port: {{ . }}, protocol: TCP}
{{- end }}
{{- end -}}
