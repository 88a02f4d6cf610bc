{{/* The content of tally.toml. */}}

{{/* Returns one value in TOML. Numbers of values.yaml are floating point; a whole number is written without a dot. */}}
{{- define "tally.toml.value" -}}
{{- if kindIs "string" . }}
{{- . | toJson }}
{{- else if kindIs "bool" . }}
{{- . }}
{{- else if eq (float64 .) (float64 (int64 .)) }}
{{- int64 . }}
{{- else }}
{{- . | toJson }}
{{- end }}
{{- end }}

{{/* Returns the keys of a map that are set: numbers, strings and booleans first, then tables. Argument: (list "section" map) */}}
{{- define "tally.toml.table" -}}
{{- $name := index . 0 }}
{{- $table := index . 1 }}
{{- printf "[%s]" $name }}
{{- range $key, $value := $table }}
{{- if not (or (kindIs "invalid" $value) (kindIs "map" $value)) }}
{{ $key }} = {{ include "tally.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := $table }}
{{- if kindIs "map" $value }}

{{ include "tally.toml.table" (list (printf "%s.%s" $name $key) $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tally.toml" -}}
{{- $config := deepCopy .Values.config }}
{{- $_ := set $config.server "listen" "0.0.0.0:50051" }}
{{- /* A subdirectory, because a file system has its own entries in the root of the volume, such as lost+found. */}}
{{- $_ := set $config.store "data" "/var/lib/tally/ledger" }}
{{- /* A pod has its own address in its environment, because all pods share this file. */}}
{{- if include "tally.replicated" . }}
{{- $_ := set $config.store "replicated" (include "tally.replicatedSettings" . | fromJson) }}
{{- else if not (values $config.store.replicated | compact) }}
{{- $_ := unset $config.store "replicated" }}
{{- end }}
{{- $_ := set $config "admin" (dict "listen" "0.0.0.0:9090" "enabled" true) }}

{{- $affinity := dict "mode" "off" }}
{{- with .Values.pinning }}
{{- if .enabled }}
{{- $cpus := dict }}
{{- range $role, $list := .cpus }}
{{- if $list }}{{ $_ := set $cpus $role $list }}{{ end }}
{{- end }}
{{- $_ := set $affinity "mode" .mode }}
{{- $_ := set $affinity "net_threads_max" .netThreadsMax }}
{{- $_ := set $affinity "verify_interval" .verifyInterval }}
{{- if $cpus }}{{ $_ := set $affinity "cpus" $cpus }}{{ end }}
{{- if .realtime.enabled }}
{{- $_ := set $affinity "fifo" (dict "enabled" true "priority" .realtime.priority "required" .realtime.required "rttime_max" .realtime.rttimeMax) }}
{{- end }}
{{- end }}
{{- end }}
{{- $_ := set $config "affinity" $affinity }}

{{- $security := dict "allow_insecure" .Values.security.allowInsecure }}
{{- if include "tally.tlsSecret" . }}
{{- $_ := set $security "tls_certificate" (printf "/etc/tally/tls/%s" .Values.tls.certificateKey) }}
{{- $_ := set $security "tls_key" (printf "/etc/tally/tls/%s" .Values.tls.privateKeyKey) }}
{{- end }}
{{- if .Values.tls.clientCa.existingSecret }}
{{- $_ := set $security "client_ca" (printf "/etc/tally/client-ca/%s" .Values.tls.clientCa.key) }}
{{- end }}
{{- if include "tally.authSecret" . }}
{{- $_ := set $security "tokens_file" (printf "/etc/tally/auth/%s" .Values.auth.key) }}
{{- end }}
{{- $_ := set $config "security" $security }}

{{- $tables := list }}
{{- range $name, $table := $config }}
{{- $tables = append $tables (include "tally.toml.table" (list $name $table)) }}
{{- end }}
{{- join "\n\n" $tables }}
{{- end }}
