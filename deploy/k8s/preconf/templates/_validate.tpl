{{/*
What a schema cannot say: settings that contradict one another. Each refusal is a sentence that names
the key to change.
*/}}
{{- define "preconf.validate" -}}
{{- $v := .Values -}}
{{- $on := dict -}}
{{- range $name, $table := include "preconf.table" . | fromYaml -}}
{{- $_ := set $on $name (index $v $table.values).enabled -}}
{{- end -}}
{{- if not (has true (values $on)) -}}
{{- fail "No component is enabled: nothing would be installed." -}}
{{- end -}}

{{- /* The chain. */ -}}
{{- $genesis := $v.chain.genesis -}}
{{- $needsGenesis := or (index $on "builder") (index $on "consumer") (index $on "rpc-overlay") -}}
{{- if and (or (index $on "signer") (index $on "gateway")) (not $v.chain.id) -}}
{{- fail "chain.id is not set: signatures are for one chain." -}}
{{- end -}}
{{- if and $needsGenesis (not $genesis.inline) (not $genesis.existingConfigMap.name) -}}
{{- fail "chain.genesis is not set: name an existingConfigMap, or give the file with --set-file chain.genesis.inline=genesis.json." -}}
{{- end -}}
{{- if and $genesis.inline $genesis.existingConfigMap.name -}}
{{- fail "chain.genesis.inline and chain.genesis.existingConfigMap.name are both set: there is one genesis." -}}
{{- end -}}
{{- if and (or (index $on "gateway") (index $on "consumer")) (not $v.chain.sequencerPublicKeys) -}}
{{- fail "chain.sequencerPublicKeys is empty: gateway and consumer believe nothing that is not signed." -}}
{{- end -}}

{{- /* Each component's own files and peers. */ -}}
{{- if index $on "signer" }}{{ include "preconf.validate.signer" . }}{{ end -}}
{{- if index $on "builder" }}{{ include "preconf.validate.builder" (dict "root" . "on" $on) }}{{ end -}}
{{- if index $on "validator-sidecar" }}{{ include "preconf.validate.sidecar" . }}{{ end -}}
{{- if index $on "payload-server" }}{{ include "preconf.validate.payloadServer" . }}{{ end -}}
{{- include "preconf.validate.peers" (dict "root" . "on" $on) -}}
{{- range $name, $table := include "preconf.table" . | fromYaml -}}
{{- if index $on $name -}}
{{- $values := mergeOverwrite (deepCopy $v.defaults) (index $v $table.values) -}}
{{- include "preconf.validate.component" (dict "root" $ "name" $name "table" $table "values" $values) -}}
{{- end -}}
{{- end -}}

{{- /* The whole release. */ -}}
{{- if and $v.tracing.enabled (not $v.tracing.endpoint) -}}
{{- fail "tracing.enabled without tracing.endpoint: name the OTLP/gRPC collector, as in http://otel-collector.monitoring.svc:4317." -}}
{{- end -}}
{{- if and (eq $v.tls.mode "generated") (not $v.tls.allowGenerated) -}}
{{- fail "tls.mode generated puts private keys into the release's history: use certManager or existingSecret, or set tls.allowGenerated for a try on your own machine." -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor.enabled (lt (int (trimSuffix "s" $v.monitoring.serviceMonitor.interval)) (int (trimSuffix "s" $v.monitoring.serviceMonitor.scrapeTimeout))) -}}
{{- fail "monitoring.serviceMonitor.scrapeTimeout is longer than its interval." -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.signer" -}}
{{- $key := .Values.signer.config.key -}}
{{- if and $key.existingSecret.name $key.csi.secretProviderClass -}}
{{- fail "signer.config.key has both existingSecret.name and csi.secretProviderClass: there is one key." -}}
{{- end -}}
{{- if not (or $key.existingSecret.name $key.csi.secretProviderClass) -}}
{{- fail "signer.config.key is not set: name an existingSecret or a csi.secretProviderClass. The key itself is never a value." -}}
{{- end -}}
{{- if gt (int64 .Values.signer.config.leaseMinMs) (int64 .Values.signer.config.leaseMaxMs) -}}
{{- fail "signer.config.leaseMinMs is above signer.config.leaseMaxMs." -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.builder" -}}
{{- $v := .root.Values -}}
{{- if and (gt (int $v.builder.replicas) 1) (not (index .on "gateway")) -}}
{{- fail "builder.replicas is 2 without gateway.enabled: the standby follows what is published through the gateways." -}}
{{- end -}}
{{- if and (gt (int $v.builder.replicas) 1) (not $v.builder.config.journal.enabled) -}}
{{- fail "builder.replicas is 2 without builder.config.journal.enabled: a builder that comes back needs to know what it promised." -}}
{{- end -}}
{{- if and .root.Values.signer.enabled (lt (int64 $v.builder.config.leaseMs) (int64 $v.signer.config.leaseMinMs)) -}}
{{- fail "builder.config.leaseMs is below signer.config.leaseMinMs: the signer would give a longer lease than was asked for." -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.payloadServer" -}}
{{- $config := .Values.payloadServer.config -}}
{{- $list := $config.whitelist -}}
{{- if and $list.publicKeys $list.existingConfigMap.name -}}
{{- fail "payloadServer.config.whitelist has both publicKeys and existingConfigMap.name: there is one whitelist." -}}
{{- end -}}
{{- if not (or $list.publicKeys $list.existingConfigMap.name) -}}
{{- fail "payloadServer.config.whitelist is not set: name the validators that may ask." -}}
{{- end -}}
{{- if not $config.validatorJwts.existingSecret.name -}}
{{- fail "payloadServer.config.validatorJwts.existingSecret.name is not set: each validator has a secret of its own." -}}
{{- end -}}
{{- if not (or $config.cometbft.url $config.proposers.enabled) -}}
{{- fail "payloadServer.config has neither cometbft.url nor proposers.enabled: it could not know whose turn it is." -}}
{{- end -}}
{{- if and $config.cometbft.url .Values.networkPolicy.enabled (not $config.cometbft.networkPolicyTo) -}}
{{- fail "payloadServer.config.cometbft.networkPolicyTo is empty, so nobody could be asked whose turn it is." -}}
{{- end -}}
{{- if and $config.proposers.enabled (not $config.proposers.allowNames) -}}
{{- fail "payloadServer.config.proposers.allowNames is empty: whoever says whose turn it is says who sees a block first." -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.sidecar" -}}
{{- $sequencers := .Values.validatorSidecar.config.sequencers -}}
{{- if not $sequencers.urls -}}
{{- fail "validatorSidecar.config.sequencers.urls is empty: who is to be asked for the block?" -}}
{{- end -}}
{{- if not $sequencers.jwt.existingSecret.name -}}
{{- fail "validatorSidecar.config.sequencers.jwt.existingSecret.name is not set: sequencers know a validator by its secret." -}}
{{- end -}}
{{- if and (regexMatch "(^|,)https://" (join "," $sequencers.urls)) (not $sequencers.caCert.existingSecret.name) -}}
{{- fail "validatorSidecar.config.sequencers.caCert.existingSecret.name is not set: no other authority is trusted for https://." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not $sequencers.networkPolicyTo) -}}
{{- fail "validatorSidecar.config.sequencers.networkPolicyTo is empty, so no sequencer could be reached." -}}
{{- end -}}
{{- end }}

{{/* Whoever has no peer in this release names one outside. */}}
{{- define "preconf.validate.peers" -}}
{{- $on := .on -}}
{{- $v := .root.Values -}}
{{- range list
  (list "builder" "signer" "builder.config.signer" $v.builder.config.signer)
  (list "gateway" "builder" "gateway.config.upstream" $v.gateway.config.upstream)
  (list "consumer" "gateway" "consumer.config.feed" $v.consumer.config.feed)
  (list "payload-server" "builder" "payloadServer.config.builder" $v.payloadServer.config.builder)
  (list "rpc-overlay" "consumer" "rpcOverlay.config.pending" $v.rpcOverlay.config.pending)
  (list "rpc-overlay" "builder" "rpcOverlay.config.ingress" $v.rpcOverlay.config.ingress)
-}}
{{- if and (index $on (index . 0)) (not (index $on (index . 1))) (not (index . 3)) -}}
{{- fail (printf "%s is not set, and this release has no %s." (index . 2) (index . 1)) -}}
{{- end -}}
{{- end -}}
{{- if and (index $on "signer") (not (index $on "builder")) (not $v.signer.config.allowNames) -}}
{{- fail "signer.config.allowNames is not set, and this release has no builder: nobody could use the signer." -}}
{{- end -}}
{{- if and (index $on "consumer") (eq $v.consumer.config.policy "v1") (not (hasPrefix "ws" $v.consumer.config.feed)) -}}
{{- fail "consumer.config.policy v1 is for the WebSocket of a bera-reth sequencer: set consumer.config.feed to ws://." -}}
{{- end -}}
{{- end }}

{{/* What goes for every component. */}}
{{- define "preconf.validate.component" -}}
{{- $key := .table.values -}}
{{- $v := .values -}}
{{- if and (eq .root.Values.tls.mode "existingSecret") (include "preconf.needsTls" .) (not (index .root.Values.tls.existingSecrets $key)) -}}
{{- fail (printf "tls.existingSecrets.%s is not set: in mode existingSecret each component has its own certificate." $key) -}}
{{- end -}}
{{- if hasKey $v.config "executionClient" -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
{{- if and (not $client.url) (ne .name "validator-sidecar") -}}
{{- fail (printf "executionClient.url is not set, and %s reads the chain through it." $key) -}}
{{- end -}}
{{- if hasKey $v.config "engineJwt" -}}
{{- if not $v.config.engineJwt.existingSecret.name -}}
{{- fail (printf "%s.config.engineJwt.existingSecret.name is not set: it holds the secret that the consensus client presents." $key) -}}
{{- end -}}
{{- if not $client.engineUrl -}}
{{- fail (printf "executionClient.engineUrl is not set: the %s stands before an execution client." .name) -}}
{{- end -}}
{{- if not $client.jwt.existingSecret.name -}}
{{- fail "executionClient.jwt.existingSecret.name is not set: it holds the secret that the execution client expects." -}}
{{- end -}}
{{- end -}}
{{- if and .root.Values.networkPolicy.enabled (not $client.networkPolicyTo) -}}
{{- fail (printf "executionClient.networkPolicyTo is empty, so %s could not reach its execution client: name its pods or addresses." $key) -}}
{{- end -}}
{{- end -}}
{{- if .table.public -}}
{{- if and .root.Values.networkPolicy.enabled (not $v.networkPolicy.publicFrom) -}}
{{- fail (printf "%s.networkPolicy.publicFrom is empty, so nobody could reach its port %s: name who may." $key .table.public.name) -}}
{{- end -}}
{{- else if ne $v.expose.via "none" -}}
{{- fail (printf "%s.expose.via is %s, but %s has no port for the public." $key $v.expose.via .name) -}}
{{- end -}}
{{- if and (ne $v.expose.via "none") (not $v.expose.hosts) -}}
{{- fail (printf "%s.expose.hosts is empty: under which name is it to be found?" $key) -}}
{{- end -}}
{{- if and (eq $v.expose.via "gateway") (not $v.expose.parentRefs) -}}
{{- fail (printf "%s.expose.parentRefs is empty: a route belongs to a Gateway." $key) -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is above maxReplicas." $key) -}}
{{- end -}}
{{- if not (or $v.autoscaling.podMetrics $v.autoscaling.targetCPUUtilizationPercentage $v.autoscaling.additionalMetrics) -}}
{{- fail (printf "%s.autoscaling has no metric to scale by." $key) -}}
{{- end -}}
{{- end -}}
{{- $replicas := int $v.replicas -}}
{{- if $v.autoscaling.enabled }}{{ $replicas = int $v.autoscaling.minReplicas }}{{ end -}}
{{- if and $v.podDisruptionBudget.enabled (lt $replicas 2) -}}
{{- fail (printf "%s.podDisruptionBudget is on with one replica: no node with it could ever be drained. Have two, or switch it off." $key) -}}
{{- end -}}
{{- end }}
