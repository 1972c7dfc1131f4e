{{/* Who may reach a component, and what it may reach. */}}

{{- define "preconf.ipFamilies" -}}
{{- with .values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .values.service.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "preconf.podPeer" -}}
- podSelector:
    matchLabels:
      {{- include "preconf.selectorLabels" . | nindent 6 }}
{{- end }}

{{- define "preconf.ingressRules" -}}
{{- $tests := .root.Values.tests.enabled -}}
{{- if or $tests .root.Values.networkPolicy.metricsFrom }}
- ports: [{protocol: TCP, port: health}]
  from:
    {{- with .root.Values.networkPolicy.metricsFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $tests }}
    {{- include "preconf.podPeer" (dict "root" .root "name" "test") | nindent 4 }}
    {{- end }}
{{- end }}
{{- if and .table.public .values.networkPolicy.publicFrom }}
- ports: [{protocol: TCP, port: {{ .table.public.name }}}]
  from:
    {{- toYaml .values.networkPolicy.publicFrom | nindent 4 }}
    {{- if and $tests (eq .name "gateway") }}
    {{- include "preconf.podPeer" (dict "root" .root "name" "test") | nindent 4 }}
    {{- end }}
{{- end }}
{{- range $link, $entry := .table.links }}
{{- $callers := include "preconf.callers" (dict "root" $.root "link" $entry) | fromYamlArray }}
{{- if $callers }}
- ports: [{protocol: TCP, port: {{ $link }}}]
  from:
    {{- range $callers }}
    {{- include "preconf.podPeer" (dict "root" $.root "name" .) | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
{{- with .values.outside.links }}
- ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  from:
    {{- toYaml $.values.outside.from | nindent 4 }}
{{- end }}
{{- with .values.networkPolicy.extraIngress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "preconf.egressRules" -}}
{{- $links := "" -}}
{{- range $name, $table := .all }}
{{- range $link, $entry := $table.links }}
{{- $callers := include "preconf.callers" (dict "root" $.root "link" $entry) | fromYamlArray }}
{{- if and (has $.name $callers) (include "preconf.isEnabled" (dict "root" $.root "name" $name)) }}
{{- $links = cat $links "x" }}
- ports: [{protocol: TCP, port: {{ $entry.port | int }}}]
  to:
    {{- include "preconf.podPeer" (dict "root" $.root "name" $name) | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}
{{- $client := trim (include "preconf.executionClientEgress" .) }}
{{- with $client }}
{{ . }}
{{- end }}
{{- $more := trim (include "preconf.otherEgress" .) }}
{{- with $more }}
{{ . }}
{{- end }}
{{- $peers := trim (include "preconf.peerEgress" .) }}
{{- with $peers }}
{{ . }}
{{- end }}
{{- if .root.Values.tracing.enabled }}
- ports: [{protocol: TCP, port: {{ include "preconf.urlPort" .root.Values.tracing.endpoint }}}]
  to:
    {{- toYaml .root.Values.networkPolicy.tracingTo | nindent 4 }}
{{- end }}
{{- with .values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- if or $links $client $more $peers .root.Values.tracing.enabled .values.networkPolicy.extraEgress }}
- ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
  to:
    {{- toYaml .root.Values.networkPolicy.dnsTo | nindent 4 }}
{{- end }}
{{- end }}

{{/* The ports of the execution client that a component talks to. */}}
{{- define "preconf.executionClientEgress" -}}
{{- if hasKey .values.config "executionClient" -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
{{- $ports := list -}}
{{- range $key := include "preconf.executionClientUrls" . | fromYamlArray -}}
{{- with index $client $key }}{{ $ports = append $ports (include "preconf.urlPort" .) }}{{ end -}}
{{- end -}}
- ports:
    {{- range uniq $ports | sortAlpha }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  to:
    {{- toYaml $client.networkPolicyTo | nindent 4 }}
{{- end -}}
{{- end }}

{{/* The ports of the peers outside this release. */}}
{{- define "preconf.peerEgress" -}}
{{- $ports := list -}}
{{- range include "preconf.outsidePeers" . | fromYaml }}{{ $ports = append $ports (include "preconf.urlPort" .) }}{{ end -}}
{{- with $ports -}}
- ports:
    {{- range uniq . | sortAlpha }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  to:
    {{- toYaml $.values.networkPolicy.peersTo | nindent 4 }}
{{- end -}}
{{- end }}

{{/* What else a component asks. */}}
{{- define "preconf.otherEgress" -}}
{{- if and (eq .name "payload-server") .values.config.cometbft.url -}}
- ports: [{protocol: TCP, port: {{ include "preconf.urlPort" .values.config.cometbft.url }}}]
  to:
    {{- toYaml .values.config.cometbft.networkPolicyTo | nindent 4 }}
{{- else if eq .name "validator-sidecar" -}}
{{- $ports := list -}}
{{- range .values.config.sequencers.urls }}{{ $ports = append $ports (include "preconf.urlPort" .) }}{{ end -}}
- ports:
    {{- range uniq $ports | sortAlpha }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  to:
    {{- toYaml .values.config.sequencers.networkPolicyTo | nindent 4 }}
{{- end -}}
{{- end }}

{{/* Which of its URLs a component uses. */}}
{{- define "preconf.executionClientUrls" -}}
{{- if eq .name "builder" -}}
[url, wsUrl, engineUrl]
{{- else if eq .name "consumer" -}}
[url, wsUrl]
{{- else if eq .name "validator-sidecar" -}}
[engineUrl]
{{- else -}}
[url]
{{- end -}}
{{- end }}
