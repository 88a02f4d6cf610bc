{{/* Rules between values, which a schema cannot express. Each message states the values, the reason, and a remedy. */}}

{{/* Returns a CPU quantity in thousandths; -1 if the value is not a CPU quantity. */}}
{{- define "tally.millicpu" -}}
{{- $text := toString . }}
{{- if regexMatch "^[0-9]+m$" $text }}
{{- trimSuffix "m" $text | int64 }}
{{- else if regexMatch "^[0-9]+(\\.[0-9]+)?$" $text }}
{{- mulf (float64 $text) 1000.0 | int64 }}
{{- else -}}
-1
{{- end }}
{{- end }}

{{/* Returns the seconds of a value such as `20s` or `2m`. */}}
{{- define "tally.seconds" -}}
{{- if hasSuffix "m" . }}
{{- mul 60 (trimSuffix "m" . | int64) }}
{{- else }}
{{- trimSuffix "s" . | int64 }}
{{- end }}
{{- end }}

{{/* Returns the QoS class of the pod by the rules of Kubernetes: `Guaranteed` only if every container has requests equal to
     limits for CPU and memory. */}}
{{- define "tally.qos" -}}
{{- $own := dict "name" "tally" "resources" .Values.resources }}
{{- $why := list }}
{{- $any := false }}
{{- range concat (list $own) .Values.extraContainers .Values.extraInitContainers }}
{{- $name := .name }}
{{- $limits := dig "resources" "limits" (dict) . | default dict }}
{{- $requests := dig "resources" "requests" (dict) . | default dict }}
{{- if or $limits $requests }}{{ $any = true }}{{ end }}
{{- range $kind := list "cpu" "memory" }}
{{- $limit := get $limits $kind | toString }}
{{- $request := get (merge (dict) $requests $limits) $kind | toString }}
{{- if not $limit }}
{{- $why = append $why (printf "container %s has no %s limit" $name $kind) }}
{{- else if eq $kind "cpu" }}
{{- if ne (include "tally.millicpu" $limit) (include "tally.millicpu" $request) }}
{{- $why = append $why (printf "container %s requests %s cpu and is limited to %s" $name $request $limit) }}
{{- end }}
{{- else if ne $limit $request }}
{{- $why = append $why (printf "container %s requests %s memory and is limited to %s" $name $request $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- dict "class" (ternary "Guaranteed" (ternary "Burstable" "BestEffort" $any) (empty $why)) "why" $why | toJson }}
{{- end }}

{{- define "tally.validate" -}}
{{- $values := .Values }}
{{- if not $values.security.allowInsecure }}
{{- if not (include "tally.tlsSecret" .) }}
{{- fail "tls.existingSecret is empty, and tls.certManager.enabled is false: the chart does not serve a ledger without TLS. Name a Secret of type kubernetes.io/tls (docs/operations.md, Install), or let cert-manager make one, or, for a trial, set security.allowInsecure=true" }}
{{- end }}
{{- if not (include "tally.authSecret" .) }}
{{- fail "auth.existingSecret and auth.tokens are empty: the chart does not serve a ledger without authentication. Configure hashes of tokens (docs/operations.md, Install), or, for a trial, set security.allowInsecure=true" }}
{{- end }}
{{- end }}
{{- if and $values.tls.clientCa.existingSecret (not (include "tally.tlsSecret" .)) }}
{{- fail "tls.clientCa.existingSecret is set, but the server has no certificate: client certificates need TLS. Set tls.existingSecret or tls.certManager.enabled" }}
{{- end }}
{{- if $values.tls.certManager.enabled }}
{{- if $values.tls.existingSecret }}
{{- fail "tls.existingSecret and tls.certManager.enabled are both set: only one of them can provide the certificate. Leave one of them out" }}
{{- end }}
{{- if not $values.tls.certManager.issuerRef.name }}
{{- fail "tls.certManager.issuerRef.name is empty: cert-manager needs an issuer. Set the name of an Issuer or ClusterIssuer" }}
{{- end }}
{{- if or (ne $values.tls.certificateKey "tls.crt") (ne $values.tls.privateKeyKey "tls.key") }}
{{- fail (printf "tls.certificateKey = %s and tls.privateKeyKey = %s: cert-manager writes the keys tls.crt and tls.key. Leave both values out" $values.tls.certificateKey $values.tls.privateKeyKey) }}
{{- end }}
{{- if ge (trimSuffix "h" $values.tls.certManager.renewBefore | int64) (trimSuffix "h" $values.tls.certManager.duration | int64) }}
{{- fail (printf "tls.certManager.renewBefore = %s: must be shorter than tls.certManager.duration (%s)" $values.tls.certManager.renewBefore $values.tls.certManager.duration) }}
{{- end }}
{{- end }}
{{- with $values.service }}
{{- if ne .type "LoadBalancer" }}
{{- range $key := list "loadBalancerIP" "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if get $values.service $key }}
{{- fail (printf "service.%s is set, and service.type is %s: it has an effect only with service.type=LoadBalancer" $key $values.service.type) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .type "ClusterIP" }}
{{- range $key := list "externalTrafficPolicy" "nodePort" }}
{{- if get $values.service $key }}
{{- fail (printf "service.%s is set, and service.type is ClusterIP: it has an effect only with service.type=NodePort or LoadBalancer" $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $values.verify.enabled (not $values.persistence.enabled) }}
{{- fail "verify.enabled is true and persistence.enabled is false: without a volume there is nothing to copy and verify" }}
{{- end }}
{{- if and $values.auth.existingSecret $values.auth.tokens }}
{{- fail "auth.existingSecret and auth.tokens are both set: only one of them can provide the file of tokens" }}
{{- end }}
{{- if include "tally.replicated" . }}
{{- include "tally.validateReplicated" . }}
{{- else }}
{{- include "tally.validateEmbedded" . }}
{{- end }}
{{- $qos := include "tally.qos" . | fromJson }}
{{- if $values.pinning.enabled }}
{{- if ne $qos.class "Guaranteed" }}
{{- fail (printf "pinning.enabled needs a pod of QoS class Guaranteed, but this pod would be %s: %s. Kubernetes gives exclusive CPUs only to Guaranteed pods. Make requests and limits equal, or set pinning.enabled=false" $qos.class (join "; " $qos.why)) }}
{{- end }}
{{- $millis := include "tally.millicpu" (get $values.resources.limits "cpu") | int64 }}
{{- if or (le $millis 0) (mod $millis 1000) }}
{{- fail (printf "resources.limits.cpu = %v: pinning.enabled needs whole CPUs (1, 2, 4, ...), because Kubernetes runs a container with a fraction on shared CPUs without a warning. Or set pinning.enabled=false" (get $values.resources.limits "cpu")) }}
{{- end }}
{{- else if $values.pinning.realtime.enabled }}
{{- fail "pinning.realtime.enabled is true and pinning.enabled is false: a real-time thread on shared CPUs takes CPU time from all other processes" }}
{{- end }}
{{- $drain := include "tally.seconds" $values.config.server.drain | int64 }}
{{- $last := 5 }}
{{- $work := "the last commit and spans" }}
{{- if include "tally.replicated" . }}
{{- $last = 7 }}
{{- $work = "the resignation, the last commit and spans" }}
{{- end }}
{{- $needed := add (int64 $values.preStopSleepSeconds) (mul 2 $drain) $last }}
{{- if gt $needed (int64 $values.terminationGracePeriodSeconds) }}
{{- fail (printf "terminationGracePeriodSeconds = %d is too short: preStopSleepSeconds (%d) + 2 x config.server.drain (%s) + %d for %s = %d. Otherwise the kubelet kills the service before it has sent all replies" (int64 $values.terminationGracePeriodSeconds) (int64 $values.preStopSleepSeconds) $values.config.server.drain $last $work $needed) }}
{{- end }}
{{- if and $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled }}
{{- fail "metrics.podMonitor.enabled and metrics.serviceMonitor.enabled are both true: Prometheus would count every sample twice" }}
{{- end }}
{{- range $name := list "TALLY_POD_CPU_LIMIT_MILLI" "TALLY_POD_CPU_REQUEST_MILLI" "TALLY_POD_QOS_CLASS" "TALLY_POD_NAME" "TALLY_POD_NAMESPACE" "TALLY_NODE_NAME" "TALLY__STORE__REPLICATED__ADVERTISE" }}
{{- range $values.extraEnv }}
{{- if eq .name $name }}{{ fail (printf "extraEnv: %s is set by the chart" $name) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
