{{/* The pod of a component. All components have the same one. */}}

{{- define "preconf.pod" -}}
metadata:
  labels:
    {{- include "preconf.podLabels" . | nindent 4 }}
  {{- with trim (include "preconf.podAnnotations" .) }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "preconf.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "preconf.gracePeriod" . }}
  securityContext:
    {{- toYaml .root.Values.podSecurityContext | nindent 4 }}
  {{- with .root.Values.global.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .values.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with trim (include "preconf.topologySpread" .) }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "preconf.image" . }}
      imagePullPolicy: {{ .values.image.pullPolicy }}
      {{- with .values.extraArgs }}
      args:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      env:
        {{- trim (include "preconf.envEntries" .) | nindent 8 }}
      {{- with .values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- trim (include "preconf.containerPorts" .) | nindent 8 }}
      {{- include "preconf.probes" . | nindent 6 }}
      lifecycle:
        # The endpoint goes away while this sleeps, and only then the drain begins. The image has
        # no shell to sleep in.
        preStop: {sleep: {seconds: {{ int .values.drain.preStopSeconds }}}}
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .root.Values.securityContext | nindent 8 }}
      {{- with trim (include "preconf.allVolumeMounts" .) }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
  {{- with trim (include "preconf.allVolumes" .) }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* What changes with the configuration that a pod reads only at start. */}}
{{- define "preconf.podAnnotations" -}}
{{- if .root.Values.chain.genesis.inline }}
checksum/genesis: {{ .root.Values.chain.genesis.inline | sha256sum }}
{{- end }}
{{- with .values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "preconf.topologySpread" -}}
{{- $kept := dict -}}
{{- range $key, $spread := .values.topologySpread -}}
{{- if $spread }}{{ $_ := set $kept $key $spread }}{{ end -}}
{{- end -}}
{{- with $kept }}
topologySpreadConstraints:
  {{- range $key, $spread := . }}
  - topologyKey: {{ $key }}
    maxSkew: {{ int $spread.maxSkew }}
    whenUnsatisfiable: {{ $spread.whenUnsatisfiable }}
    {{- with $spread.minDomains }}
    minDomains: {{ int . }}
    {{- end }}
    {{- with $spread.nodeAffinityPolicy }}
    nodeAffinityPolicy: {{ . }}
    {{- end }}
    # A node whose taints keep our pods out would count as one that has none of them.
    nodeTaintsPolicy: {{ default "Honor" $spread.nodeTaintsPolicy }}
    {{- if eq $.table.kind "Deployment" }}
    # The pods that a rollout replaces do not count: the new ones may stand where the old ones do.
    matchLabelKeys: [pod-template-hash]
    {{- end }}
    labelSelector:
      matchLabels:
        {{- include "preconf.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Our own variables, then those of OpenTelemetry, then the operator's, which take the place of ours: a list
with one name twice is refused where objects are applied by the server. A variable knows only those before
it, so OTEL_RESOURCE_ATTRIBUTES, which refers to others that may be the operator's, comes last.
*/}}
{{- define "preconf.envEntries" -}}
{{- $env := include "preconf.env" . | fromYaml -}}
{{- if hasKey $env "Error" }}{{ fail (printf "the environment of %s: %s" .name $env.Error) }}{{ end -}}
{{- $theirs := list -}}
{{- range .values.extraEnv }}{{ $theirs = append $theirs .name }}{{ end -}}
{{- range $name, $value := $env }}
{{- if not (has $name $theirs) }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- if .root.Values.tracing.enabled }}
{{- range include "preconf.otelEnv" . | fromYamlArray }}
{{- if not (has .name $theirs) }}
{{ list . | toYaml }}
{{- end }}
{{- end }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- if and .root.Values.tracing.enabled (not (has "OTEL_RESOURCE_ATTRIBUTES" $theirs)) }}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ include "preconf.otelResource" . | quote }}}
{{- end }}
{{- end }}

{{- define "preconf.otelEnv" -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .root.Values.tracing.endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: grpc
- name: OTEL_SERVICE_NAME
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['app.kubernetes.io/component']"}}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .root.Values.tracing.sampleRatio | quote }}
- name: OTEL_PROPAGATORS
  value: tracecontext,baggage
- name: OTEL_K8S_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: OTEL_K8S_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: OTEL_K8S_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: OTEL_K8S_POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}

{{- define "preconf.otelResource" -}}
service.namespace={{ .root.Release.Name }},service.version={{ default .root.Chart.AppVersion .values.image.tag }},k8s.namespace.name=$(OTEL_K8S_NAMESPACE),k8s.node.name=$(OTEL_K8S_NODE_NAME),k8s.pod.name=$(OTEL_K8S_POD_NAME),k8s.pod.ip=$(OTEL_K8S_POD_IP)
{{- range $name, $value := .root.Values.tracing.resourceAttributes }},{{ $name }}={{ $value }}{{ end }}
{{- end }}

{{- define "preconf.containerPorts" -}}
- {name: health, containerPort: {{ .root.Values.ports.health | int }}}
{{- with .table.public }}
- {name: {{ .name }}, containerPort: {{ .port | int }}}
{{- end }}
{{- range $link, $entry := .table.links }}
{{- if include "preconf.isServed" (dict "root" $.root "name" $.name "link" $link) }}
- {name: {{ $link }}, containerPort: {{ $entry.port | int }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The plaintext health port answers gRPC health; the kubelet shows no certificate to the others. */}}
{{- define "preconf.probes" -}}
{{- $port := .root.Values.ports.health | int -}}
{{- $probes := .values.probes -}}
startupProbe:
  grpc: {port: {{ $port }}, service: startup}
  {{- toYaml $probes.startup | nindent 2 }}
livenessProbe:
  grpc: {port: {{ $port }}, service: liveness}
  {{- toYaml $probes.liveness | nindent 2 }}
readinessProbe:
  grpc: {port: {{ $port }}, service: readiness}
  {{- toYaml $probes.readiness | nindent 2 }}
{{- end }}

{{- define "preconf.allVolumeMounts" -}}
{{- include "preconf.volumeMounts" . }}
{{- with include "preconf.claim" . }}
- {name: {{ . }}, mountPath: /var/lib/preconf}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "preconf.allVolumes" -}}
{{- include "preconf.volumes" . }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The volume that a component keeps across restarts, which is also the name of its values; or nothing. */}}
{{- define "preconf.claim" -}}
{{- if and (eq .name "builder") .values.config.journal.enabled }}journal
{{- else if and (eq .name "signer") .values.config.record.enabled }}record
{{- end -}}
{{- end }}
