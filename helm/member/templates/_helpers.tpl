{{- define "faultline.selector" -}}
app.kubernetes.io/name: faultline
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "faultline.labels" -}}
{{ include "faultline.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "faultline.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "faultline.joinSecret" -}}
{{ .Values.join.existingSecret | default "faultline-join" }}
{{- end }}

{{- /* The host folders a CRI socket is looked for in. Folders, not sockets: a restarted runtime makes a new socket. */ -}}
{{- define "faultline.runtimeFolders" -}}
{{- with .Values.nodes.runtimeSocket }}{{ dir . }}{{ else }}/run/containerd,/run/crio,/run/k3s/containerd{{ end -}}
{{- end }}
