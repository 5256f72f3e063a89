{{- define "changefeed.name" -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "changefeed.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "changefeed.labels" -}}
{{ include "changefeed.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "changefeed.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "changefeed.account" -}}
{{- .Values.serviceAccount.name | default (include "changefeed.name" .) -}}
{{- end -}}

{{- /* The settings file: what the values say, and what the chart knows better. */ -}}
{{- define "changefeed.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $security := deepCopy ($settings.security | default dict) -}}
{{- if .Values.tls.secret -}}
{{- $tls := dict "certificate_file" "/run/tls/tls.crt" "key_file" "/run/tls/tls.key" -}}
{{- if .Values.tls.clientCa -}}
{{- $_ := set $tls "client_ca_file" "/run/client-ca/ca.crt" -}}
{{- end -}}
{{- $_ := set $security "tls" (mergeOverwrite (deepCopy ($security.tls | default dict)) $tls) -}}
{{- else if .Values.tls.clientCa -}}
{{- fail "tls.clientCa needs tls.secret: without TLS no caller shows a certificate, and nobody would be asked who they are" -}}
{{- else if .Values.tls.plaintext -}}
{{- $_ := set $security "plaintext_shows_documents_and_tokens_to_the_network" true -}}
{{- else -}}
{{- fail "tls.secret names no Secret, and tls.plaintext is not true: a pod's callers come over the network" -}}
{{- end -}}
{{- range $file := regexFindAll "/run/secrets/changefeed/[^\"/ ]+" (toJson $settings) -1 -}}
{{- if not (hasKey ($.Values.secrets | default dict) (base $file)) -}}
{{- fail (printf "the settings name %s, and secrets has no %s: no pod would start" $file (base $file)) -}}
{{- end -}}
{{- end -}}
{{- $keys := list -}}
{{- range $index, $key := .Values.tokenKeys -}}
{{- $keys = append $keys (dict "id" $key.id "secret_file" (printf "/run/secrets/token-keys/%d" $index)) -}}
{{- end -}}
{{- $_ := set $settings "security" $security -}}
{{- $_ := set $settings "listen" (printf "0.0.0.0:%v" .Values.service.port) -}}
{{- $_ := set $settings "shutdown_grace" (printf "%vs" .Values.drain.grace) -}}
{{- $_ := set $settings "tokens" (dict "keys" $keys) -}}
{{- $_ := set $settings "monitoring" (dict "listen" (printf "0.0.0.0:%v" .Values.monitoring.port)) -}}
{{- $_ := set $settings "logging" (mergeOverwrite (dict "format" "json") (deepCopy ($settings.logging | default dict))) -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "changefeed.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "changefeed.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
