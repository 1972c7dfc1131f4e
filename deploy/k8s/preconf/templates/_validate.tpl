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
{{- if $genesis.inline -}}
{{- $config := fromJson $genesis.inline | dig "config" dict -}}
{{- if not (and (kindIs "map" $config) (hasKey ($config | default dict) "chainId")) -}}
{{- fail "chain.genesis.inline is no JSON with a config.chainId: give the file with --set-file." -}}
{{- end -}}
{{- if and $v.chain.id (kindIs "float64" $config.chainId) (ne (int64 $config.chainId) (int64 $v.chain.id)) -}}
{{- fail (printf "chain.genesis.inline is of chain %d, and chain.id is %d." (int64 $config.chainId) (int64 $v.chain.id)) -}}
{{- end -}}
{{- if and (index $on "builder") (include "preconf.isServed" (dict "root" . "name" "builder" "link" "payload")) (not $v.builder.config.payloads.slotRule) (not $config.berachain) -}}
{{- fail "builder.config.payloads.slotRule is not set, and chain.genesis.inline is not of a Berachain: which slot is a block for?" -}}
{{- end -}}
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
{{- $fullname := include "preconf.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "%s cannot be the name of a Service: set fullnameOverride to lower-case letters, digits and dashes, a letter first." $fullname) -}}
{{- end -}}
{{- range $part := list "repository" "digest" -}}
{{- if index $v.defaults.image $part -}}
{{- fail (printf "defaults.image.%s is set: each component has an image of its own, and all would get the same one." $part) -}}
{{- end -}}
{{- end -}}
{{- include "preconf.validate.alerts" . -}}
{{- if and $v.tracing.enabled (not $v.tracing.endpoint) -}}
{{- fail "tracing.enabled without tracing.endpoint: name the OTLP/gRPC collector, as in http://otel-collector.monitoring.svc:4317." -}}
{{- end -}}
{{- if hasPrefix "https://" $v.tracing.endpoint -}}
{{- fail "tracing.endpoint is https://: the services send their spans in plaintext, to a collector in the cluster that goes on from there." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.dnsTo) -}}
{{- fail "networkPolicy.dnsTo is empty, so no name could be resolved: name where DNS is." -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled $v.tracing.enabled (not $v.networkPolicy.tracingTo) -}}
{{- fail "networkPolicy.tracingTo is empty, so the collector could not be reached: name where it is." -}}
{{- end -}}
{{- if and (eq $v.tls.mode "generated") (not $v.tls.allowGenerated) -}}
{{- fail "tls.mode generated puts private keys into the release's history: use certManager or existingSecret, or set tls.allowGenerated for a try on your own machine." -}}
{{- end -}}
{{- if eq $v.tls.mode "certManager" -}}
{{- $settings := $v.tls.certManager -}}
{{- if ge (include "preconf.seconds" $settings.renewBefore | int64) (include "preconf.seconds" $settings.duration | int64) -}}
{{- fail (printf "tls.certManager.renewBefore (%s) is not shorter than tls.certManager.duration (%s)." $settings.renewBefore $settings.duration) -}}
{{- end -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor.enabled (lt (int (trimSuffix "s" $v.monitoring.serviceMonitor.interval)) (int (trimSuffix "s" $v.monitoring.serviceMonitor.scrapeTimeout))) -}}
{{- fail "monitoring.serviceMonitor.scrapeTimeout is longer than its interval." -}}
{{- end -}}
{{- if and $v.monitoring.rules.enabled $v.monitoring.serviceMonitor.enabled (gt (int (trimSuffix "s" $v.monitoring.serviceMonitor.interval)) 15) -}}
{{- fail "monitoring.serviceMonitor.interval is above 15s with monitoring.rules.enabled: the alerts look at windows of four such intervals." -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.alerts" -}}
{{- $alerts := list -}}
{{- range $path, $_ := .Files.Glob "files/rules/*.yaml" -}}
{{- range ($.Files.Get $path | fromYaml).groups -}}
{{- range .rules }}{{ $alerts = append $alerts .alert }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range .Values.monitoring.rules.disabled -}}
{{- if not (has . $alerts) -}}
{{- fail (printf "monitoring.rules.disabled names %s, which is no alert of this chart." .) -}}
{{- end -}}
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
{{- with $v.builder.config.deadline -}}
{{- $deadline := . -}}
{{- $unit := ternary 1.0 1000.0 (hasSuffix "ms" $deadline) -}}
{{- $deadlineMs := mulf (regexFind "^[0-9.]+" $deadline | float64) $unit -}}
{{- if or (lt $deadlineMs 10.0) (gt $deadlineMs 600000.0) -}}
{{- fail (printf "builder.config.deadline is %s: it may be 10ms to 600s." $deadline) -}}
{{- end -}}
{{- if ge (divf $deadlineMs (float64 $v.builder.config.flashblockIntervalMs) | floor) 9999.0 -}}
{{- fail (printf "builder.config.deadline is %s with a flashblock every %d ms: a session has 10000 flashblocks at most." $deadline (int64 $v.builder.config.flashblockIntervalMs)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.builder.config.payloads.enabled (not (index .on "payload-server")) (not $v.builder.config.payloads.allowNames) -}}
{{- fail "builder.config.payloads.enabled is on without builder.config.payloads.allowNames, and this release has no payload server: nobody could use the port." -}}
{{- end -}}
{{- if and (gt (int $v.builder.replicas) 1) (not (index .on "gateway")) -}}
{{- fail "builder.replicas is 2 without gateway.enabled: the standby follows what is published through the gateways." -}}
{{- end -}}
{{- if and (gt (int $v.builder.replicas) 1) (not $v.builder.config.journal.enabled) -}}
{{- fail "builder.replicas is 2 without builder.config.journal.enabled: a builder that comes back needs to know what it promised." -}}
{{- end -}}
{{- if and (gt (int $v.builder.replicas) 1) (ne $v.builder.updateStrategy "OnDelete") -}}
{{- fail "builder.replicas is 2 with builder.updateStrategy RollingUpdate, which would wait for ever for the standby to be ready: set OnDelete, and delete the pods yourself." -}}
{{- end -}}
{{- if and .root.Values.signer.enabled (lt (int64 $v.builder.config.leaseMs) (int64 $v.signer.config.leaseMinMs)) -}}
{{- fail "builder.config.leaseMs is below signer.config.leaseMinMs: the signer would give a longer lease than was asked for." -}}
{{- end -}}
{{- if and .root.Values.signer.enabled (gt (int64 $v.builder.config.leaseMs) (int64 $v.signer.config.leaseMaxMs)) -}}
{{- fail "builder.config.leaseMs is above signer.config.leaseMaxMs: the signer would give a shorter lease than was asked for." -}}
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
{{- if hasPrefix "https:" $config.cometbft.url -}}
{{- fail "payloadServer.config.cometbft.url is https: the payload server asks the node in plaintext." -}}
{{- end -}}
{{- if include "preconf.isLoopback" $config.cometbft.url -}}
{{- fail "payloadServer.config.cometbft.url is the payload server's own pod, where there is no node: name the node's Service or address." -}}
{{- end -}}
{{- if and $config.cometbft.url (not $config.cometbft.insecurePlaintext) -}}
{{- fail "payloadServer.config.cometbft.url is plaintext, and says who gets each block: set cometbft.insecurePlaintext if nobody is on the way to the node who could lie." -}}
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
{{- if and $sequencers.caCert.existingSecret.name (not (regexMatch "(^|,)https://" (join "," $sequencers.urls))) -}}
{{- fail "validatorSidecar.config.sequencers.caCert.existingSecret.name is set, and no url is https://: there would be no certificate to check." -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not $sequencers.networkPolicyTo) -}}
{{- fail "validatorSidecar.config.sequencers.networkPolicyTo is empty, so no sequencer could be reached." -}}
{{- end -}}
{{- end }}

{{/* Whoever has no peer in this release names one outside. */}}
{{- define "preconf.validate.peers" -}}
{{- $on := .on -}}
{{- $v := .root.Values -}}
{{- range $name, $table := include "preconf.table" .root | fromYaml -}}
{{- if index $on $name -}}
{{- range $key, $peer := $table.peers -}}
{{- if not (or $peer.optional (index $on $peer.of) (index $v $table.values "config" $key)) -}}
{{- fail (printf "%s.config.%s is not set, and this release has no %s." $table.values $key $peer.of) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (index $on "signer") (not (index $on "builder")) (not $v.signer.config.allowNames) -}}
{{- fail "signer.config.allowNames is not set, and this release has no builder: nobody could use the signer." -}}
{{- end -}}
{{- if and (index $on "consumer") (eq $v.consumer.config.policy "v1") (not (hasPrefix "ws" $v.consumer.config.feed)) -}}
{{- fail "consumer.config.policy v1 is for the WebSocket of a bera-reth sequencer: set consumer.config.feed to ws://." -}}
{{- end -}}
{{- end }}

{{/* An execution client of a component's own is somewhere else than the release's, and egress has to lead there. */}}
{{- define "preconf.validate.ownClient" -}}
{{- $own := .values.config.executionClient -}}
{{- $hosts := list -}}
{{- range $url := list "url" "wsUrl" "engineUrl" -}}
{{- with index $.root.Values.executionClient $url }}{{ $hosts = append $hosts (urlParse .).hostname }}{{ end -}}
{{- end -}}
{{- if and .root.Values.networkPolicy.enabled $hosts (not $own.networkPolicyTo) -}}
{{- range $url := list "url" "wsUrl" "engineUrl" -}}
{{- with index $own $url -}}
{{- if not (has (urlParse .).hostname $hosts) -}}
{{- fail (printf "%s.config.executionClient.%s is another host than the release's, and %s.config.executionClient.networkPolicyTo is empty, so it could not be reached: name its pods or addresses." $.table.values $url $.table.values) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Who may come to the port for the public, and how. */}}
{{- define "preconf.validate.public" -}}
{{- $key := .table.values -}}
{{- $v := .values -}}
{{- if and .root.Values.networkPolicy.enabled (not $v.networkPolicy.publicFrom) -}}
{{- fail (printf "%s.networkPolicy.publicFrom is empty, so nobody could reach its port %s: name who may." $key .table.public.name) -}}
{{- end -}}
{{- if and $v.service.loadBalancerSourceRanges (ne $v.service.type "LoadBalancer") -}}
{{- fail (printf "%s.service.loadBalancerSourceRanges is set, but its type is %s: only a LoadBalancer heeds them." $key $v.service.type) -}}
{{- end -}}
{{- if ne $v.expose.via "none" -}}
{{- if not $v.expose.hosts -}}
{{- fail (printf "%s.expose.hosts is empty: under which name is it to be found?" $key) -}}
{{- end -}}
{{- if and (eq $v.expose.via "gateway") (not $v.expose.parentRefs) -}}
{{- fail (printf "%s.expose.parentRefs is empty: a route belongs to a Gateway." $key) -}}
{{- end -}}
{{- $named := false -}}
{{- range $v.networkPolicy.publicFrom -}}
{{- if not (has (dig "ipBlock" "cidr" "" .) (list "0.0.0.0/0" "::/0")) }}{{ $named = true }}{{ end -}}
{{- end -}}
{{- if and .root.Values.networkPolicy.enabled (not $named) -}}
{{- fail (printf "%s.expose.via is %s, and %s.networkPolicy.publicFrom has only the addresses of everybody, which under some networks (Cilium) no pod has: name the proxy, as in {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ingress-nginx}}}." $key $v.expose.via $key) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Every URL that a component is told: its port is one. */}}
{{- define "preconf.validate.urls" -}}
{{- $urls := values (include "preconf.outsidePeers" . | fromYaml) -}}
{{- if hasKey .values.config "executionClient" -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
{{- $urls = concat $urls (list $client.url $client.wsUrl $client.engineUrl) -}}
{{- end -}}
{{- $urls = append $urls (dig "cometbft" "url" "" .values.config) -}}
{{- $urls = concat $urls (dig "sequencers" "urls" list .values.config) -}}
{{- if .root.Values.tracing.enabled }}{{ $urls = append $urls .root.Values.tracing.endpoint }}{{ end -}}
{{- range compact $urls -}}
{{- if gt (include "preconf.urlPort" . | int) 65535 -}}
{{- fail (printf "%s has a port above 65535 (%s)." . $.table.values) -}}
{{- end -}}
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
{{- include "preconf.validate.ownClient" . -}}
{{- end -}}
{{- $outside := include "preconf.outsidePeers" . | fromYaml -}}
{{- if not (include "preconf.takesPlaintext" .) -}}
{{- range $peer, $url := $outside -}}
{{- if and (hasPrefix "http://" $url) (not (include "preconf.isLoopback" $url)) -}}
{{- fail (printf "%s.config.%s is plaintext: give it as https://, or set PRECONF_INSECURE_PLAINTEXT in %s.extraEnv if nobody is on the way who could read or change what is said." $key $peer $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $outside .root.Values.networkPolicy.enabled (not $v.networkPolicy.peersTo) -}}
{{- fail (printf "%s.networkPolicy.peersTo is empty, so %s.config.%s could not be reached: name where it is." $key $key (keys $outside | sortAlpha | first)) -}}
{{- end -}}
{{- include "preconf.validate.urls" . -}}
{{- if .table.public -}}
{{- include "preconf.validate.public" . -}}
{{- else -}}
{{- if ne $v.expose.via "none" -}}
{{- fail (printf "%s.expose.via is %s, but %s has no port for the public." $key $v.expose.via .name) -}}
{{- end -}}
{{- if ne $v.service.type "ClusterIP" -}}
{{- fail (printf "%s.service.type is %s, but %s has no port for the public." $key $v.service.type .name) -}}
{{- end -}}
{{- if $v.networkPolicy.publicFrom -}}
{{- fail (printf "%s.networkPolicy.publicFrom is set, but %s has no port for the public: see %s.networkPolicy.extraIngress." $key .name $key) -}}
{{- end -}}
{{- end -}}
{{- include "preconf.validate.rollout" . -}}
{{- include "preconf.validate.outside" . -}}
{{- include "preconf.validate.ports" . -}}
{{- include "preconf.validate.spread" . -}}
{{- include "preconf.validate.volumes" . -}}
{{- if .table.most -}}
{{- if $v.autoscaling.enabled -}}
{{- fail (printf "%s.autoscaling.enabled is on, perhaps by defaults.autoscaling: %s is never scaled by load." $key .name) -}}
{{- end -}}
{{- if gt (int $v.replicas) (int .table.most) -}}
{{- fail (printf "%s.replicas is %d: there may be %d." $key (int $v.replicas) (int .table.most)) -}}
{{- end -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas is above maxReplicas." $key) -}}
{{- end -}}
{{- if not (or $v.autoscaling.podMetrics $v.autoscaling.targetCPUUtilizationPercentage $v.autoscaling.additionalMetrics) -}}
{{- fail (printf "%s.autoscaling has no metric to scale by." $key) -}}
{{- end -}}
{{- end -}}
{{- if and $v.podDisruptionBudget.enabled (eq .name "builder") -}}
{{- fail "builder.podDisruptionBudget.enabled is on: the standby is never ready, so the builder that has the lease could never be evicted, and no node with it be drained." -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.ports" -}}
{{- $service := .values.service -}}
{{- if and (gt (len $service.ipFamilies) 1) (not (hasSuffix "DualStack" $service.ipFamilyPolicy)) -}}
{{- fail (printf "%s.service.ipFamilies has both families, and %s.service.ipFamilyPolicy is neither PreferDualStack nor RequireDualStack." .table.values .table.values) -}}
{{- end -}}
{{- if and (or (has "IPv6" $service.ipFamilies) (hasSuffix "DualStack" $service.ipFamilyPolicy)) (eq .root.Values.ports.bindAddress "0.0.0.0") -}}
{{- fail (printf "%s.service is for IPv6 too, and ports.bindAddress is 0.0.0.0, where nobody is reached by IPv6: set \"[::]\"." .table.values) -}}
{{- end -}}
{{- $health := int .root.Values.ports.health -}}
{{- $ports := list -}}
{{- with .table.public }}{{ $ports = append $ports (int .port) }}{{ end -}}
{{- range .table.links }}{{ $ports = append $ports (int .port) }}{{ end -}}
{{- if has $health $ports -}}
{{- fail (printf "ports.health is %d, which is another port of %s: the health port serves nothing else." $health .name) -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.rollout" -}}
{{- $key := .table.values -}}
{{- $v := .values -}}
{{- if and $v.updateStrategy (ne .table.kind "StatefulSet") -}}
{{- fail (printf "%s.updateStrategy is set, perhaps by defaults.updateStrategy: it is for the StatefulSets, signer and builder." $key) -}}
{{- end -}}
{{- if and (has (toString $v.rollingUpdate.maxSurge) (list "0" "0%")) (has (toString $v.rollingUpdate.maxUnavailable) (list "0" "0%")) -}}
{{- fail (printf "%s.rollingUpdate has neither maxSurge nor maxUnavailable: nothing could be replaced." $key) -}}
{{- end -}}
{{- $drain := add (int $v.drain.preStopSeconds) (int $v.drain.windowSeconds) -}}
{{- if and (eq .name "gateway") (lt (int64 $v.minReadySeconds) (int64 $drain)) -}}
{{- fail (printf "gateway.minReadySeconds is %d, less than the %d of gateway.drain.preStopSeconds and windowSeconds together: readers who are sent away would be sent away again by the next gateway that ends." (int $v.minReadySeconds) $drain) -}}
{{- end -}}
{{- end }}

{{/* Links for peers outside the cluster. */}}
{{- define "preconf.validate.outside" -}}
{{- $key := .table.values -}}
{{- $outside := .values.outside -}}
{{- $tls := .root.Values.tls -}}
{{- range $link := $outside.links -}}
{{- $known := keys ($.table.links | default dict) -}}
{{- if not (has $link $known) -}}
{{- fail (printf "%s.outside.links has %s, which is no link of %s." $key $link $.name) -}}
{{- end -}}
{{- if not (include "preconf.isServed" (dict "root" $.root "name" $.name "link" $link)) -}}
{{- fail (printf "%s.outside.links has %s, which is not served: see %s.config." $key $link $key) -}}
{{- end -}}
{{- end -}}
{{- if and (has "pending" $outside.links) (not .values.config.allowNames) (not (include "preconf.isEnabled" (dict "root" .root "name" "rpc-overlay"))) -}}
{{- fail (printf "%s.outside.links has pending without %s.config.allowNames, and this release has no overlay: nobody could use it." $key $key) -}}
{{- end -}}
{{- if and $outside.links .root.Values.networkPolicy.enabled (not $outside.from) -}}
{{- fail (printf "%s.outside.from is empty, so nobody could reach %s.outside.links: name who may." $key $key) -}}
{{- end -}}
{{- if and $outside.loadBalancerSourceRanges (ne $outside.type "LoadBalancer") -}}
{{- fail (printf "%s.outside.loadBalancerSourceRanges is set, but its type is %s: only a LoadBalancer heeds them." $key $outside.type) -}}
{{- end -}}
{{- $names := index $tls.extraDnsNames $key -}}
{{- if and $names (eq $tls.mode "existingSecret") -}}
{{- fail (printf "tls.extraDnsNames.%s is set, but in mode existingSecret the names are those of your certificates." $key) -}}
{{- end -}}
{{- if and $outside.links (not $names) (ne $tls.mode "existingSecret") -}}
{{- fail (printf "%s.outside.links is set without tls.extraDnsNames.%s: peers refuse a certificate without the name by which they found it." $key $key) -}}
{{- end -}}
{{- range $names -}}
{{- if regexMatch "[.]svc([.]|$)" . -}}
{{- fail (printf "tls.extraDnsNames.%s has %s: names of Services are identities, and each is its component's alone." $key .) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.spread" -}}
{{- $key := .table.values -}}
{{- range $topology, $spread := .values.topologySpread -}}
{{- range $needed := list "maxSkew" "whenUnsatisfiable" -}}
{{- if and $spread (not (index $spread $needed)) -}}
{{- fail (printf "%s.topologySpread.%s has no %s." $key $topology $needed) -}}
{{- end -}}
{{- end -}}
{{- if and $spread $spread.minDomains (ne $spread.whenUnsatisfiable "DoNotSchedule") -}}
{{- fail (printf "%s.topologySpread has minDomains for %s, but is %s: only DoNotSchedule heeds it." $key $topology $spread.whenUnsatisfiable) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "preconf.validate.volumes" -}}
{{- $ours := concat (keys (include "preconf.files" . | fromYaml)) (list "journal" "record") -}}
{{- $key := .table.values -}}
{{- range .values.extraVolumes -}}
{{- if has .name $ours -}}
{{- fail (printf "%s.extraVolumes has a volume %s, and so has the chart: give it another name." $key .name) -}}
{{- end -}}
{{- end -}}
{{- end }}
