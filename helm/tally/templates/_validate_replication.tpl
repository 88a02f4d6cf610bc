{{/* Rules for the number of replicas and for the replicated store. "tally.validate" includes them. */}}

{{- define "tally.validateEmbedded" -}}
{{- if gt (int .Values.replicas) 1 }}
{{- fail (printf "replicas = %d, and config.store.kind is embedded: a volume has one writer, so each more pod would be another ledger. Set replicas=1, or config.store.kind=replicated (docs/replication.md)" (int .Values.replicas)) }}
{{- end }}
{{- if .Values.replication.init.enabled }}
{{- fail "replication.init.enabled is true, and config.store.kind is embedded: only a replicated ledger is made by this Job. Set config.store.kind=replicated, or leave replication.init.enabled out" }}
{{- end }}
{{- end }}

{{- define "tally.validateReplicated" -}}
{{- $values := .Values }}
{{- $replicated := $values.config.store.replicated }}
{{- if and (gt (int $values.replicas) 0) (lt (int $values.replicas) 3) (not $values.replication.allowFewerReplicas) }}
{{- fail (printf "replicas = %d, and config.store.kind is replicated: with fewer than 3 replicas, the loss of one machine during an upgrade stops the service. Set replicas=3, or replication.allowFewerReplicas=true" (int $values.replicas)) }}
{{- end }}
{{- if not $replicated.brokers }}
{{- fail "config.store.replicated.brokers is empty: a replicated ledger needs the brokers of its log. Set HOST:PORT, with commas between several" }}
{{- end }}
{{- if not $values.persistence.enabled }}
{{- fail "persistence.enabled is false, and config.store.kind is replicated: a replica without a volume would read the whole log at each start, and no copy would be left if the log were lost. Set persistence.enabled=true" }}
{{- end }}
{{- include "tally.validateBrokerSecurity" . }}
{{- if not $values.security.allowInsecure }}
{{- if $replicated.accept_unsafe_topic }}
{{- fail "config.store.replicated.accept_unsafe_topic is true: the log could lose transactions that were acknowledged. Leave it out, or, for a trial, set security.allowInsecure=true" }}
{{- end }}
{{- end }}
{{- if and (include "tally.authSecret" .) (not $values.replication.peerToken.existingSecret) }}
{{- fail "replication.peerToken.existingSecret is empty, and the service asks for tokens: before a replica leads, it asks the others how far they are. Name a Secret with a token of role read" }}
{{- end }}
{{- if and (include "tally.tlsSecret" .) (not (include "tally.peerCa" . | fromJson).secret) }}
{{- fail "replication.peerCa.existingSecret is empty, and the service has TLS: the replicas call each other at names below .svc, for which no public CA makes certificates. Name a Secret with the CA of tls.existingSecret, which may be that Secret itself" }}
{{- end }}
{{- include "tally.validateNoAutoscaling" . }}
{{- end }}

{{/* Rules for the connection to the brokers: whoever can read and write the topic can read the ledger and stop it. */}}
{{- define "tally.validateBrokerSecurity" -}}
{{- $replicated := .Values.config.store.replicated }}
{{- $brokers := .Values.replication.brokers }}
{{- $security := default "plaintext" $replicated.security }}
{{- $tls := has $security (list "tls" "sasl_tls") }}
{{- $sasl := has $security (list "sasl_plaintext" "sasl_tls") }}
{{- if not .Values.security.allowInsecure }}
{{- if not $tls }}
{{- fail (printf "config.store.replicated.security = %s: without TLS, others can read the ledger on its way to the brokers, and change it. Set sasl_tls, or tls with a client certificate, or, for a trial, set security.allowInsecure=true" $security) }}
{{- end }}
{{- if not (or $sasl $brokers.clientCertificate.existingSecret) }}
{{- fail "config.store.replicated.security = tls, without replication.brokers.clientCertificate.existingSecret: brokers that accept anybody let anybody write into the log of the ledger. Set a client certificate, or sasl_tls, or, for a trial, set security.allowInsecure=true" }}
{{- end }}
{{- end }}
{{- if and $tls (not $brokers.ca.existingSecret) }}
{{- fail (printf "replication.brokers.ca.existingSecret is empty, and config.store.replicated.security is %s: name a Secret with the CA of the brokers' certificates" $security) }}
{{- end }}
{{- if not $tls }}
{{- range $name, $secret := dict "ca" $brokers.ca.existingSecret "clientCertificate" $brokers.clientCertificate.existingSecret }}
{{- if $secret }}
{{- fail (printf "replication.brokers.%s.existingSecret is set, and config.store.replicated.security is %s: it has an effect only with tls or sasl_tls" $name $security) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $sasl }}
{{- if not (and $replicated.sasl_mechanism $replicated.sasl_username $brokers.password.existingSecret) }}
{{- fail (printf "config.store.replicated.security = %s needs config.store.replicated.sasl_mechanism, config.store.replicated.sasl_username, and a Secret with the password in replication.brokers.password.existingSecret" $security) }}
{{- end }}
{{- else if or $replicated.sasl_mechanism $replicated.sasl_username $brokers.password.existingSecret }}
{{- fail (printf "config.store.replicated.security = %s: sasl_mechanism, sasl_username and replication.brokers.password.existingSecret have an effect only with sasl_plaintext or sasl_tls" $security) }}
{{- end }}
{{- end }}

{{/* Rejects an autoscaler: each replica has the addresses of all replicas in its settings, so their number must not change by itself. */}}
{{- define "tally.validateNoAutoscaling" -}}
{{- $fullname := include "tally.fullname" . }}
{{- range .Values.extraManifests }}
{{- $manifest := tpl (ternary . (toYaml .) (kindIs "string" .)) $ | fromYaml }}
{{- if and (has (get $manifest "kind") (list "HorizontalPodAutoscaler" "ScaledObject")) (eq (dig "spec" "scaleTargetRef" "name" "" $manifest) $fullname) }}
{{- fail (printf "extraManifests: a %s for %s: replicas cannot be added or removed by load, because only one replica executes, and each replica knows the addresses of all. Set replicas instead" (get $manifest "kind") $fullname) }}
{{- end }}
{{- end }}
{{- end }}
