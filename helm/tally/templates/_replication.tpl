{{/* Definitions that only a replicated store needs. */}}

{{/* Returns a word with store.kind = replicated, otherwise nothing. */}}
{{- define "tally.replicated" -}}
{{- if eq (default "embedded" .Values.config.store.kind) "replicated" }}replicated{{ end }}
{{- end }}

{{/* Returns the URL of a replica. Argument: (list $ "name of the pod"). The name stays the same when the pod moves. */}}
{{- define "tally.replicaUrl" -}}
{{- $root := index . 0 }}
{{- printf "%s://%s.%s-headless.%s.svc:50051" (include "tally.scheme" $root) (index . 1) (include "tally.fullname" $root) $root.Release.Namespace }}
{{- end }}

{{/* Returns the Secret and the key with the CA of the replicas' certificates: (dict "secret" "..." "key" "..."). */}}
{{- define "tally.peerCa" -}}
{{- $secret := .Values.replication.peerCa.existingSecret }}
{{- if and .Values.tls.certManager.enabled (not $secret) }}
{{- $secret = include "tally.tlsSecret" . }}
{{- end }}
{{- dict "secret" $secret "key" .Values.replication.peerCa.key | toJson }}
{{- end }}

{{/* Returns the Secrets to mount for the replicated store, as a list of (dict "name" "..." "secret" "..." "items" ["key"]). */}}
{{- define "tally.brokerSecrets" -}}
{{- $mounts := list }}
{{- with .Values.replication.brokers }}
{{- if .ca.existingSecret }}
{{- $mounts = append $mounts (dict "name" "brokers-ca" "secret" .ca.existingSecret "items" (list .ca.key)) }}
{{- end }}
{{- with .clientCertificate }}
{{- if .existingSecret }}
{{- $mounts = append $mounts (dict "name" "brokers-client" "secret" .existingSecret "items" (list .certificateKey .privateKeyKey)) }}
{{- end }}
{{- end }}
{{- if .password.existingSecret }}
{{- $mounts = append $mounts (dict "name" "brokers-password" "secret" .password.existingSecret "items" (list .password.key)) }}
{{- end }}
{{- end }}
{{- $mounts | toJson }}
{{- end }}

{{/* Returns the Secrets to mount with which the replicas call each other, in the same form. */}}
{{- define "tally.peerSecrets" -}}
{{- $mounts := list }}
{{- $ca := include "tally.peerCa" . | fromJson }}
{{- if and $ca.secret (include "tally.tlsSecret" .) }}
{{- $mounts = append $mounts (dict "name" "peer-ca" "secret" $ca.secret "items" (list $ca.key)) }}
{{- end }}
{{- with .Values.replication.peerToken }}
{{- if .existingSecret }}
{{- $mounts = append $mounts (dict "name" "peer-token" "secret" .existingSecret "items" (list .key)) }}
{{- end }}
{{- end }}
{{- $mounts | toJson }}
{{- end }}

{{/* Volumes and mounts for a list of such Secrets. */}}
{{- define "tally.secretVolumes" -}}
{{- range . }}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    # Mounts only the named keys, in case the Secret has others, too.
    items:
      {{- range .items }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- end }}

{{- define "tally.secretMounts" -}}
{{- range . }}
- name: {{ .name }}
  mountPath: /etc/tally/{{ .name }}
  readOnly: true
{{- end }}
{{- end }}

{{/* Returns the keys of [store.replicated], in JSON: those that the user sets, and those that the chart sets. */}}
{{- define "tally.replicatedSettings" -}}
{{- $settings := deepCopy (default (dict) .Values.config.store.replicated) }}
{{- $fullname := include "tally.fullname" . }}
{{- $peers := list }}
{{- /* With `replicas: 0`, only the Job of replication.init uses this list. */}}
{{- range $ordinal := until (default 3 (int .Values.replicas) | int) }}
{{- $peers = append $peers (include "tally.replicaUrl" (list $ (printf "%s-%d" $fullname $ordinal))) }}
{{- end }}
{{- $_ := set $settings "peers" (join "," $peers) }}
{{- range concat (include "tally.brokerSecrets" . | fromJsonArray) (include "tally.peerSecrets" . | fromJsonArray) }}
{{- $path := printf "/etc/tally/%s/%s" .name (index .items 0) }}
{{- if eq .name "brokers-client" }}
{{- $_ := set $settings "tls_cert_file" $path }}
{{- $_ := set $settings "tls_key_file" (printf "/etc/tally/%s/%s" .name (index .items 1)) }}
{{- else }}
{{- $keys := dict "brokers-ca" "tls_ca_file" "brokers-password" "sasl_password_file" "peer-ca" "peer_ca_file" "peer-token" "peer_token_file" }}
{{- $_ := set $settings (get $keys .name) $path }}
{{- end }}
{{- end }}
{{- $settings | toJson }}
{{- end }}

{{/* Returns the ports of the brokers, as a JSON list of strings. */}}
{{- define "tally.brokerPorts" -}}
{{- $ports := list }}
{{- range splitList "," .Values.config.store.replicated.brokers }}
{{- $ports = append $ports (regexReplaceAll "^.*:([0-9]+) *$" . "${1}") }}
{{- end }}
{{- range .Values.networkPolicy.brokerPorts }}
{{- $ports = append $ports (int . | toString) }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{/* The affinity of the pod. The user's values have priority, key by key. */}}
{{- define "tally.affinity" -}}
{{- $affinity := dict }}
{{- if include "tally.replicated" . }}
{{- $selector := dict "matchLabels" (include "tally.selectorLabels" . | fromYaml) }}
{{- $host := dict "labelSelector" $selector "topologyKey" "kubernetes.io/hostname" }}
{{- $zone := dict "labelSelector" $selector "topologyKey" "topology.kubernetes.io/zone" }}
{{- $preferred := list (dict "weight" 50 "podAffinityTerm" $zone) }}
{{- $anti := dict }}
{{- if eq .Values.replication.hostAntiAffinity "required" }}
{{- $_ := set $anti "requiredDuringSchedulingIgnoredDuringExecution" (list $host) }}
{{- else }}
{{- $preferred = prepend $preferred (dict "weight" 100 "podAffinityTerm" $host) }}
{{- end }}
{{- $_ := set $anti "preferredDuringSchedulingIgnoredDuringExecution" $preferred }}
{{- $_ := set $affinity "podAntiAffinity" $anti }}
{{- end }}
{{- mergeOverwrite $affinity (deepCopy .Values.affinity) | toJson }}
{{- end }}

{{/* The topology spread constraints of the pod: the chart's own, and then the user's. */}}
{{- define "tally.topologySpreadConstraints" -}}
{{- $constraints := list }}
{{- if and (include "tally.replicated" .) .Values.replication.zoneSpread }}
{{- $selector := dict "matchLabels" (include "tally.selectorLabels" . | fromYaml) }}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" .Values.replication.zoneSpread "labelSelector" $selector) }}
{{- end }}
{{- concat $constraints .Values.topologySpreadConstraints | toJson }}
{{- end }}

{{/* Labels of the pods of the Job that makes the replicated ledger. The selector of the service must not match them. */}}
{{- define "tally.initLabels" -}}
{{ include "tally.selectorLabels" . | replace "component: ledger" "component: init" }}
{{- end }}
