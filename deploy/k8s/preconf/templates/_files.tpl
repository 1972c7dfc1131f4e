{{/*
What each component reads from files: a YAML map from the name of a mount under /etc/preconf to the
Secret, ConfigMap or CSI volume behind it. Secrets are files and never variables; the group may read
them (the pod's fsGroup), nobody else, which is what the services insist on.
*/}}

{{- define "preconf.files" -}}
{{- if include "preconf.needsTls" . }}
tls: {secret: {{ include "preconf.tlsSecret" . | quote }}}
{{- end }}
{{ include (printf "preconf.files.%s" .name) . }}
{{- end }}

{{- define "preconf.files.genesis" -}}
{{- $genesis := .root.Values.chain.genesis -}}
{{- if $genesis.inline -}}
genesis: {configMap: {{ include "preconf.fullname" .root }}-genesis, key: genesis.json, file: genesis.json}
{{- else -}}
genesis: {configMap: {{ $genesis.existingConfigMap.name | quote }}, key: {{ $genesis.existingConfigMap.key | quote }}, file: genesis.json}
{{- end -}}
{{- end }}

{{- define "preconf.files.signer" -}}
{{- $key := .values.config.key -}}
{{- if $key.existingSecret.name }}
key: {secret: {{ $key.existingSecret.name | quote }}, key: {{ $key.existingSecret.key | quote }}, file: key}
{{- else }}
key: {csi: {{ $key.csi.secretProviderClass | quote }}, driver: {{ $key.csi.driver | quote }}}
{{- end }}
{{- end }}

{{/* The secrets of the Engine API: the consensus client's, and the execution client's. */}}
{{- define "preconf.files.engine" -}}
{{- $inbound := .values.config.engineJwt.existingSecret -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
{{- $outbound := $client.jwt.existingSecret -}}
engine-jwt: {secret: {{ $inbound.name | quote }}, key: {{ $inbound.key | quote }}, file: jwt}
execution-jwt: {secret: {{ $outbound.name | quote }}, key: {{ $outbound.key | quote }}, file: jwt}
{{- end }}

{{- define "preconf.files.builder" -}}
{{ include "preconf.files.engine" . }}
{{ include "preconf.files.genesis" . }}
{{- end }}

{{- define "preconf.files.gateway" -}}
{{- end }}

{{- define "preconf.files.consumer" -}}
{{ include "preconf.files.genesis" . }}
{{- end }}

{{- define "preconf.files.rpc-overlay" -}}
{{ include "preconf.files.genesis" . }}
{{- end }}

{{- define "preconf.files.payload-server" -}}
{{- $config := .values.config -}}
{{- with $config.tls.existingSecret }}
payload-tls: {secret: {{ . | quote }}}
{{- end }}
{{- if $config.whitelist.publicKeys }}
whitelist: {configMap: {{ include "preconf.name" . }}-whitelist, key: whitelist.json, file: whitelist.json}
{{- else }}
whitelist: {configMap: {{ $config.whitelist.existingConfigMap.name | quote }}, key: {{ $config.whitelist.existingConfigMap.key | quote }}, file: whitelist.json}
{{- end }}
validator-jwts: {secret: {{ $config.validatorJwts.existingSecret.name | quote }}, key: {{ $config.validatorJwts.existingSecret.key | quote }}, file: validator-jwts.json}
{{- end }}

{{- define "preconf.files.validator-sidecar" -}}
{{- $sequencers := .values.config.sequencers -}}
{{ include "preconf.files.engine" . }}
sequencer-jwt: {secret: {{ $sequencers.jwt.existingSecret.name | quote }}, key: {{ $sequencers.jwt.existingSecret.key | quote }}, file: sequencer-jwt}
{{- with $sequencers.caCert.existingSecret }}
{{- if .name }}
sequencer-ca: {secret: {{ .name | quote }}, key: {{ .key | quote }}, file: ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "preconf.volumes" -}}
{{- range $mount, $file := include "preconf.files" . | fromYaml }}
- name: {{ $mount }}
  {{- if $file.csi }}
  csi:
    driver: {{ $file.driver | quote }}
    readOnly: true
    volumeAttributes: {secretProviderClass: {{ $file.csi | quote }}}
  {{- else if $file.configMap }}
  configMap:
    name: {{ $file.configMap | quote }}
    defaultMode: 0444
    items: [{key: {{ $file.key | quote }}, path: {{ $file.file }}}]
  {{- else }}
  secret:
    secretName: {{ $file.secret | quote }}
    defaultMode: 0440
    {{- if $file.key }}
    items: [{key: {{ $file.key | quote }}, path: {{ $file.file }}}]
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "preconf.volumeMounts" -}}
{{- range $mount, $_ := include "preconf.files" . | fromYaml }}
- {name: {{ $mount }}, mountPath: /etc/preconf/{{ $mount }}, readOnly: true}
{{- end }}
{{- end }}
