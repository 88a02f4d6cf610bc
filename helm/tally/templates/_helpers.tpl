{{/* Names, labels, image. */}}

{{- define "tally.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "tally.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "tally.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tally.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tally.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tally.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: ledger
{{- end }}

{{/* Labels of the pod of `helm test`. The selector of the service must not match them. */}}
{{- define "tally.testLabels" -}}
{{ include "tally.selectorLabels" . | replace "component: ledger" "component: test" }}
{{- end }}

{{/* Name of the CronJob that runs `tally verify`. Kubernetes allows 52 characters for the name of a CronJob. */}}
{{- define "tally.verifyName" -}}
{{ include "tally.fullname" . | trunc 45 | trimSuffix "-" }}-verify
{{- end }}

{{/* Labels of the pods of the CronJob that runs `tally verify`. The selector of the service must not match them. */}}
{{- define "tally.verifyLabels" -}}
{{ include "tally.selectorLabels" . | replace "component: ledger" "component: verify" }}
{{- end }}

{{- define "tally.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "tally.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata of an object. Argument: (dict "root" $ "name" "..." "labels" {} "annotations" {}) */}}
{{- define "tally.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tally.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tally.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tally.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tally.image" -}}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry }}
{{- with .Values.image }}
{{- $name := ternary .repository (printf "%s/%s" $registry .repository) (empty $registry) }}
{{- if .digest }}
{{- printf "%s@%s" $name .digest }}
{{- else }}
{{- printf "%s:%s" $name (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Returns the name of the Secret with the server's certificate; empty without TLS. */}}
{{- define "tally.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}
{{- printf "%s-tls" (include "tally.fullname" .) }}
{{- else }}
{{- .Values.tls.existingSecret }}
{{- end }}
{{- end }}

{{/* Returns the name of the Secret with the file of tokens; empty without tokens. */}}
{{- define "tally.authSecret" -}}
{{- if .Values.auth.existingSecret }}
{{- .Values.auth.existingSecret }}
{{- else if .Values.auth.tokens }}
{{- printf "%s-auth" (include "tally.fullname" .) }}
{{- end }}
{{- end }}

{{- define "tally.scheme" -}}
{{- ternary "https" "http" (not (empty (include "tally.tlsSecret" .))) }}
{{- end }}

{{/* Security context of the container and of the test pod. */}}
{{- define "tally.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end }}

{{- define "tally.podSecurityContext" -}}
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
runAsGroup: 65532
runAsNonRoot: true
runAsUser: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
