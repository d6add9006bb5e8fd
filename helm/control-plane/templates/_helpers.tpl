{{- define "faultline.name" -}}faultline-control-plane{{- end }}

{{- define "faultline.selector" -}}
app.kubernetes.io/name: faultline
app.kubernetes.io/component: control-plane
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

{{- define "faultline.adminSecret" -}}
{{ .Values.adminToken.existingSecret | default "faultline-admin-token" }}
{{- end }}

{{- define "faultline.kekSecret" -}}
{{ .Values.kek.existingSecret | default "faultline-kek" }}
{{- end }}

{{- /* What agents dial unless the values say otherwise. */ -}}
{{- define "faultline.host" -}}
{{ include "faultline.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- /* Every name the server certificate carries, comma separated. localhost is for kubectl port-forward. */ -}}
{{- define "faultline.advertise" -}}
{{- $host := include "faultline.host" . -}}
{{- $own := list $host (include "faultline.name" .) (printf "%s.%s" (include "faultline.name" .) .Release.Namespace) (printf "%s.cluster.local" $host) "localhost" "127.0.0.1" -}}
{{- concat .Values.advertise.names $own | uniq | join "," -}}
{{- end }}

{{- /* Data of a Secret made once: what the cluster holds already, else the fresh value. */ -}}
{{- define "faultline.madeOnce" -}}
{{- $found := lookup "v1" "Secret" .namespace .name -}}
{{- if and $found (hasKey ($found.data | default dict) .key) -}}
{{ index $found.data .key }}
{{- else -}}
{{ .fresh | b64enc }}
{{- end -}}
{{- end }}
