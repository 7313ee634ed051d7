{{/* Names and labels. */}}
{{- define "emmdit.name" -}}
{{- if contains "emmdit" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-emmdit" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* What selects the pods of a part: a dict of root, component and, for workers, pool. */}}
{{- define "emmdit.selector" -}}
app.kubernetes.io/name: emmdit
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
emmdit.io/pool: {{ . }}
{{- end }}
{{- end }}

{{- define "emmdit.labels" -}}
{{ include "emmdit.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: emmdit
{{- end }}

{{/* An image by its repository, tag and, where there is one, digest. */}}
{{- define "emmdit.reference" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{/* One of .Values.images by name: a dict of root and image. */}}
{{- define "emmdit.image" -}}
{{- $image := get .root.Values.images .image -}}
{{- if not $image }}{{ fail (printf "images has no %q" .image) }}{{ end -}}
{{ include "emmdit.reference" $image }}
{{- end }}

{{/* Refuses what the schema cannot express. */}}
{{- define "emmdit.check" -}}
{{- $values := .Values }}
{{- if and $values.valkey.enabled $values.queue.url }}{{ fail "queue.url is set and valkey.enabled is true: which of them is the queue?" }}{{ end }}
{{- if not (or $values.valkey.enabled $values.queue.url) }}{{ fail "there is no queue: set valkey.enabled or queue.url" }}{{ end }}
{{- if and (eq $values.blobs.store "s3") (not $values.blobs.s3.url) }}{{ fail "blobs.store is s3: set blobs.s3.url" }}{{ end }}
{{- if and $values.networkPolicy.enabled (or (not $values.valkey.enabled) (eq $values.blobs.store "s3")) (not $values.networkPolicy.extraEgress) }}
{{- fail "the queue or the bucket is outside of this release: name it in networkPolicy.extraEgress, or nobody will reach it" }}
{{- end }}
{{- if and $values.valkey.enabled (eq $values.blobs.store "redis") (gt (mul 2 (int $values.blobs.redisMaxMiB)) (int $values.valkey.maxMemoryMiB)) }}
{{- fail "blobs.redisMaxMiB is more than half of valkey.maxMemoryMiB: the jobs need the rest" }}
{{- end }}
{{- if and $values.ingress.enabled (not $values.ingress.host) }}{{ fail "ingress.enabled: set ingress.host" }}{{ end }}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) }}{{ fail "httpRoute.enabled: set httpRoute.parentRefs" }}{{ end }}
{{- $names := dict }}
{{- range $values.workerPools }}
{{- if hasKey $names .name }}{{ fail (printf "two worker pools are called %q" .name) }}{{ end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- end }}

{{- define "emmdit.queueSecret" -}}
{{- if .Values.valkey.enabled }}{{ .Values.valkey.existingSecret | default (printf "%s-valkey" (include "emmdit.name" .)) }}{{ else }}{{ .Values.queue.passwordSecret.name }}{{ end }}
{{- end }}

{{- define "emmdit.queueUrl" -}}
{{- if .Values.valkey.enabled }}redis://emmdit@{{ include "emmdit.name" . }}-valkey:6379/0{{ else }}{{ .Values.queue.url }}{{ end }}
{{- end }}

{{- define "emmdit.modelsClaim" -}}
{{- if .Values.models.volume.existingClaim }}{{ .Values.models.volume.existingClaim }}
{{- else if .Values.models.fetch }}{{ include "emmdit.name" . }}-models
{{- end }}
{{- end }}

{{/* A setting's value as a variable has it: numbers never in powers of ten. */}}
{{- define "emmdit.value" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else }}{{ toJson . | quote }}{{ end }}
{{- end }}

{{/* Variables of gateway and worker: a dict of root, models, own (what the chart decides) and settings. */}}
{{- define "emmdit.env" -}}
{{- $root := .root }}
{{- $settings := dict "models" (join "," .models) "host" "0.0.0.0" "redis_url" (include "emmdit.queueUrl" $root) }}
{{- if include "emmdit.queueSecret" $root }}{{ $_ := set $settings "redis_password_file" "/run/secrets/queue/password" }}{{ end }}
{{- if $root.Values.queue.caSecret.name }}{{ $_ := set $settings "redis_ca_file" "/run/secrets/queue-ca/ca.crt" }}{{ end }}
{{- if $root.Values.queue.certificateSecret }}
{{- $_ := set $settings "redis_cert_file" "/run/secrets/queue-certificate/tls.crt" }}
{{- $_ := set $settings "redis_key_file" "/run/secrets/queue-certificate/tls.key" }}
{{- end }}
{{- with $root.Values.blobs }}
{{- if eq .store "redis" }}
{{- $_ := set $settings "blob_url" "redis" }}
{{- $_ := set $settings "blob_max_bytes" (mul 1048576 (int .redisMaxMiB)) }}
{{- else if eq .store "volume" }}
{{- $_ := set $settings "blob_url" "/pictures" }}
{{- else }}
{{- $_ := set $settings "blob_url" .s3.url }}
{{- with .s3.endpointUrl }}{{ $_ := set $settings "s3_endpoint_url" . }}{{ end }}
{{- with .s3.region }}{{ $_ := set $settings "s3_region" . }}{{ end }}
{{- end }}
{{- end }}
{{- $settings = mergeOverwrite $settings .own (deepCopy $root.Values.settings) (deepCopy .settings) }}
{{- range $name := keys $settings | sortAlpha }}
- name: EMMDIT_{{ upper $name }}
  value: {{ include "emmdit.value" (get $settings $name) }}
{{- end }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}

{{/* Credentials of the bucket. */}}
{{- define "emmdit.envFrom" -}}
{{- if and (eq .Values.blobs.store "s3") .Values.blobs.s3.credentialsSecret }}
envFrom:
  - secretRef: {name: {{ .Values.blobs.s3.credentialsSecret }}}
{{- end }}
{{- end }}

{{- define "emmdit.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if include "emmdit.modelsClaim" . }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- if include "emmdit.queueSecret" . }}
- {name: queue, mountPath: /run/secrets/queue, readOnly: true}
{{- end }}
{{- if .Values.queue.caSecret.name }}
- {name: queue-ca, mountPath: /run/secrets/queue-ca, readOnly: true}
{{- end }}
{{- if .Values.queue.certificateSecret }}
- {name: queue-certificate, mountPath: /run/secrets/queue-certificate, readOnly: true}
{{- end }}
{{- if eq .Values.blobs.store "volume" }}
- {name: pictures, mountPath: /pictures}
{{- end }}
{{- end }}

{{- define "emmdit.volumes" -}}
- {name: data, emptyDir: {sizeLimit: 8Gi}}
- {name: tmp, emptyDir: {sizeLimit: 1Gi}}
{{- with include "emmdit.modelsClaim" . }}
- {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- with include "emmdit.queueSecret" . }}
- name: queue
  secret:
    secretName: {{ . }}
    items: [{key: {{ if $.Values.valkey.enabled }}password{{ else }}{{ $.Values.queue.passwordSecret.key }}{{ end }}, path: password}]
    defaultMode: 0440
{{- end }}
{{- with .Values.queue.caSecret }}
{{- if .name }}
- name: queue-ca
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}], defaultMode: 0440}
{{- end }}
{{- end }}
{{- with .Values.queue.certificateSecret }}
- {name: queue-certificate, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- if eq .Values.blobs.store "volume" }}
- {name: pictures, persistentVolumeClaim: {claimName: {{ .Values.blobs.volume.existingClaim | default (printf "%s-pictures" (include "emmdit.name" .)) }}}}
{{- end }}
{{- end }}

{{/* Starts nothing before the models are there at the commit that is asked for: their manifests are written last. */}}
{{- define "emmdit.waitForModels" -}}
{{- if .root.Values.models.fetch }}
initContainers:
  - name: wait-for-models
    image: {{ include "emmdit.image" (dict "root" .root "image" .image) }}
    imagePullPolicy: {{ .root.Values.imagePullPolicy }}
    command:
      - /bin/sh
      - -ec
      - |
        {{- range .root.Values.models.fetch }}
        until grep -qs {{ .revision | trunc 12 }} /models/{{ .name }}/bundle.json; do sleep 5; done
        {{- end }}
    resources:
      requests: {cpu: 10m, memory: 16Mi}
      limits: {cpu: 100m, memory: 64Mi}
    securityContext: {{- include "emmdit.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- define "emmdit.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What every pod of ours says of itself. `groups` are added for devices. */}}
{{- define "emmdit.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
{{- with .groups }}
supplementalGroups: {{ toJson . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "emmdit.podCommon" -}}
serviceAccountName: {{ include "emmdit.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "emmdit.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Not two on one node while another has none; but better on one node than not at all. */}}
{{- define "emmdit.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "emmdit.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "emmdit.selector" . | nindent 8 }}
{{- end }}

{{/* Rules of the network policies. */}}
{{- define "emmdit.dns" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end }}
{{- define "emmdit.egress" -}}
{{ include "emmdit.dns" . }}
{{- if .Values.valkey.enabled }}
- to:
    - podSelector:
        matchLabels: {{- include "emmdit.selector" (dict "root" . "component" "valkey") | nindent 10 }}
  ports: [{protocol: TCP, port: 6379}]
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- define "emmdit.namespaces" -}}
{{- range . }}
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . }}}}
{{- end }}
{{- end }}
