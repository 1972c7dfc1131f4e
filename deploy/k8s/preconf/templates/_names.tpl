{{/*
Names, labels, images and addresses.

Most templates take a component: (dict "root" $ "name" "rpc-overlay" "table" its entry in
files/components.yaml "values" its block merged over `defaults`), which `preconf.component` makes.
*/}}

{{- define "preconf.table" -}}
{{ .Files.Get "files/components.yaml" }}
{{- end }}

{{- define "preconf.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 32 | trimSuffix "-" }}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{ .Release.Name | trunc 32 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 32 | trimSuffix "-" }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The name of a component's objects. */}}
{{- define "preconf.name" -}}
{{ include "preconf.fullname" .root }}-{{ .name }}
{{- end }}

{{/* Labels that never change: what selectors select by. */}}
{{- define "preconf.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Labels of objects that belong to no component; takes the root. */}}
{{- define "preconf.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: preconf
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The same with others, which may be among commonLabels: (dict "root" $ "more" labels). */}}
{{- define "preconf.labelsWith" -}}
{{ mergeOverwrite (include "preconf.commonLabels" .root | fromYaml) (.more | default dict) | toYaml }}
{{- end }}

{{- define "preconf.labels" -}}
{{ include "preconf.commonLabels" .root }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* Of pods: none that changes with the chart alone, which would replace pods that are as they were. */}}
{{- define "preconf.podLabels" -}}
{{ include "preconf.selectorLabels" . }}
app.kubernetes.io/part-of: preconf
{{- with mergeOverwrite (deepCopy (.root.Values.commonLabels | default dict)) (.values.podLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "preconf.image" -}}
{{- $image := .values.image -}}
{{- $registry := default $image.registry .root.Values.global.imageRegistry -}}
{{- $repository := default (printf "preconf/%s" .name) $image.repository -}}
{{- $path := $repository -}}
{{- if $registry }}{{ $path = printf "%s/%s" $registry $repository }}{{ end -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $path $image.digest }}
{{- else -}}
{{ printf "%s:%s" $path (default .root.Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end }}

{{/* The host of a component's links: each ready pod has an address behind it. */}}
{{- define "preconf.linkHost" -}}
{{ include "preconf.name" . }}-headless.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* The identity in a component's certificate, by which its peers know it. */}}
{{- define "preconf.identity" -}}
{{ include "preconf.name" . }}.{{ .root.Release.Namespace }}.svc
{{- with .root.Values.tls.identitySuffix }}.{{ . }}{{ end }}
{{- end }}

{{/* Who may use a link: the component of the release that does, if there is one, and the names that are given. */}}
{{- define "preconf.allowNames" -}}
{{- $names := list -}}
{{- if or (include "preconf.isEnabled" .) (not .more) }}{{ $names = list (include "preconf.identity" .) }}{{ end -}}
{{ concat $names (.more | default list) | uniq | join "," }}
{{- end }}

{{/* The URL of a link of another component: (dict "root" $ "to" "builder" "link" "feed"). */}}
{{- define "preconf.linkUrl" -}}
{{- $table := include "preconf.table" .root | fromYaml -}}
{{- $host := include "preconf.linkHost" (dict "root" .root "name" .to) -}}
{{ printf "https://%s:%d" $host (index $table .to "links" .link "port" | int) }}
{{- end }}

{{/* The peers outside this release that a component is told of: a map from the key to the URL. */}}
{{- define "preconf.outsidePeers" -}}
{{- range $key, $_ := .table.peers }}
{{- with index $.values.config $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a component takes plaintext beyond its own pod, or may, by what is not seen here: "true" or nothing. */}}
{{- define "preconf.takesPlaintext" -}}
{{- $variables := keys (include "preconf.env" . | fromYaml) -}}
{{- range .values.extraEnv }}{{ $variables = append $variables .name }}{{ end -}}
{{- if or .values.envFrom (has "PRECONF_INSECURE_PLAINTEXT" $variables) (has "--insecure-plaintext" .values.extraArgs) }}true{{ end -}}
{{- end }}

{{/* Whether a URL leads to the pod itself: "true" or nothing. */}}
{{- define "preconf.isLoopback" -}}
{{- if regexMatch "^[a-z]+://(localhost|127[.][0-9.]+|\\[::1\\])(:[0-9]+)?(/.*)?$" . }}true{{ end -}}
{{- end }}

{{/* Whether a component is part of the release: "true" or nothing. Takes (dict "root" $ "name" n). */}}
{{- define "preconf.isEnabled" -}}
{{- $table := include "preconf.table" .root | fromYaml -}}
{{- if (index .root.Values (index $table .name "values")).enabled }}true{{ end -}}
{{- end }}

{{/* The components that may use a link: a list. Takes (dict "root" $ "link" entry). */}}
{{- define "preconf.callers" -}}
{{- $root := .root -}}
{{- range .link.from -}}
{{- if include "preconf.isEnabled" (dict "root" $root "name" .) }}
- {{ . }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Whether a link is served: (dict "root" $ "name" component "link" name). */}}
{{- define "preconf.isServed" -}}
{{- if eq .link "admin" -}}
{{- $table := include "preconf.table" .root | fromYaml -}}
{{- if (index .root.Values (index $table .name "values")).config.admin.enabled }}true{{ end -}}
{{- else if and (eq .name "builder") (eq .link "payload") -}}
{{- if or .root.Values.payloadServer.enabled .root.Values.builder.config.payloads.enabled }}true{{ end -}}
{{- else if eq .link "proposers" -}}
{{- if .root.Values.payloadServer.config.proposers.enabled }}true{{ end -}}
{{- else -}}
true
{{- end -}}
{{- end }}

{{/* The execution client of a component: its own settings over the release's, as YAML. */}}
{{- define "preconf.executionClient" -}}
{{- $over := dict -}}
{{- range $key, $value := .values.config.executionClient -}}
{{- if $value }}{{ $_ := set $over $key $value }}{{ end -}}
{{- end -}}
{{ mergeOverwrite (deepCopy .root.Values.executionClient) $over | toYaml }}
{{- end }}

{{/* The port of a URL, written out or its scheme's. */}}
{{- define "preconf.urlPort" -}}
{{- $url := urlParse . -}}
{{- if regexMatch ":[0-9]+$" $url.host -}}
{{ regexFind "[0-9]+$" $url.host }}
{{- else if has $url.scheme (list "https" "wss") -}}
443
{{- else -}}
80
{{- end -}}
{{- end }}

{{/* The seconds of a duration such as 1h30m. */}}
{{- define "preconf.seconds" -}}
{{- $hours := regexFind "[0-9]+h" . | trimSuffix "h" | int64 -}}
{{- $minutes := regexFind "[0-9]+m" . | trimSuffix "m" | int64 -}}
{{- $seconds := regexFind "[0-9]+s" . | trimSuffix "s" | int64 -}}
{{ add (mul $hours 3600) (mul $minutes 60) $seconds }}
{{- end }}

{{/* Seconds from the order to end a pod until it is killed. */}}
{{- define "preconf.gracePeriod" -}}
{{- $flush := 5 -}}
{{- $slack := 10 -}}
{{ add (int .values.drain.preStopSeconds) (int .values.drain.windowSeconds) $flush $slack }}
{{- end }}

{{/* The secret with a component's certificate. */}}
{{- define "preconf.tlsSecret" -}}
{{- if eq .root.Values.tls.mode "existingSecret" -}}
{{ index .root.Values.tls.existingSecrets .table.values }}
{{- else -}}
{{ include "preconf.name" . }}-tls
{{- end -}}
{{- end }}

{{/* Whether a component has links, as server or as client, and so needs a certificate. */}}
{{- define "preconf.needsTls" -}}
{{- if or (ne .name "validator-sidecar") .root.Values.validatorSidecar.config.admin.enabled }}true{{ end -}}
{{- end }}

{{/* All names of a component's certificate, one to a line. */}}
{{- define "preconf.dnsNames" -}}
{{- $name := include "preconf.name" . -}}
{{- $namespace := .root.Release.Namespace -}}
- {{ include "preconf.identity" . }}
- {{ $name }}-headless.{{ $namespace }}.svc
- {{ printf "*.%s-headless.%s.svc" $name $namespace | quote }}
{{- range index .root.Values.tls.extraDnsNames .table.values }}
- {{ . | quote }}
{{- end }}
{{- end }}
