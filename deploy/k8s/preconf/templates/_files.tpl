{{/*
What each component reads from files: a YAML map from the name of a mount under /etc/preconf to the
Secret, ConfigMap or CSI volume behind it. Secrets are files and never variables; the group may read
them (the pod's fsGroup), nobody else, which is what the services insist on.
*/}}

{{- define "preconf.files" -}}
{{- if include "preconf.needsTls" . }}
tls: {secret: {{ include "preconf.tlsSecret" . }}}
{{- end }}
{{ include (printf "preconf.files.%s" .name) . }}
{{- end }}

{{- define "preconf.files.genesis" -}}
{{- $genesis := .root.Values.chain.genesis -}}
{{- if $genesis.inline -}}
genesis: {configMap: {{ include "preconf.fullname" .root }}-genesis, key: genesis.json, file: genesis.json}
{{- else -}}
genesis: {configMap: {{ $genesis.existingConfigMap.name }}, key: {{ $genesis.existingConfigMap.key }}, file: genesis.json}
{{- end -}}
{{- end }}

{{- define "preconf.files.signer" -}}
{{- $key := .values.config.key -}}
{{- if $key.existingSecret.name }}
key: {secret: {{ $key.existingSecret.name }}, key: {{ $key.existingSecret.key }}, file: key}
{{- else }}
key: {csi: {{ $key.csi.secretProviderClass }}, driver: {{ $key.csi.driver }}}
{{- end }}
{{- end }}

{{/* The secrets of the Engine API: the consensus client's, and the execution client's. */}}
{{- define "preconf.files.engine" -}}
{{- $inbound := .values.config.engineJwt.existingSecret -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
{{- $outbound := $client.jwt.existingSecret -}}
engine-jwt: {secret: {{ $inbound.name }}, key: {{ $inbound.key }}, file: jwt}
execution-jwt: {secret: {{ $outbound.name }}, key: {{ $outbound.key }}, file: jwt}
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
payload-tls: {secret: {{ . }}}
{{- end }}
{{- if $config.whitelist.publicKeys }}
whitelist: {configMap: {{ include "preconf.name" . }}-whitelist, key: whitelist.json, file: whitelist.json}
{{- else }}
whitelist: {configMap: {{ $config.whitelist.existingConfigMap.name }}, key: {{ $config.whitelist.existingConfigMap.key }}, file: whitelist.json}
{{- end }}
validator-jwts: {secret: {{ $config.validatorJwts.existingSecret.name }}, key: {{ $config.validatorJwts.existingSecret.key }}, file: validator-jwts.json}
{{- end }}

{{- define "preconf.files.validator-sidecar" -}}
{{- $sequencers := .values.config.sequencers -}}
{{ include "preconf.files.engine" . }}
sequencer-jwt: {secret: {{ $sequencers.jwt.existingSecret.name }}, key: {{ $sequencers.jwt.existingSecret.key }}, file: sequencer-jwt}
{{- with $sequencers.caCert.existingSecret }}
{{- if .name }}
sequencer-ca: {secret: {{ .name }}, key: {{ .key }}, file: ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "preconf.volumes" -}}
{{- range $mount, $file := include "preconf.files" . | fromYaml }}
- name: {{ $mount }}
  {{- if $file.csi }}
  csi:
    driver: {{ $file.driver }}
    readOnly: true
    volumeAttributes: {secretProviderClass: {{ $file.csi }}}
  {{- else if $file.configMap }}
  configMap:
    name: {{ $file.configMap }}
    defaultMode: 0444
    items: [{key: {{ $file.key }}, path: {{ $file.file }}}]
  {{- else }}
  secret:
    secretName: {{ $file.secret }}
    defaultMode: 0440
    {{- if $file.key }}
    items: [{key: {{ $file.key }}, path: {{ $file.file }}}]
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "preconf.volumeMounts" -}}
{{- range $mount, $_ := include "preconf.files" . | fromYaml }}
- {name: {{ $mount }}, mountPath: /etc/preconf/{{ $mount }}, readOnly: true}
{{- end }}
{{- end }}
