{{/*
The environment of each component: a YAML map from variable to text. Every flag of a service is also
a variable, so this is its whole configuration. Numbers go through int64, or Helm writes large ones
in scientific notation.
*/}}

{{/* Where a port of a component is served: (list component port). */}}
{{- define "preconf.listen" -}}
{{ (first .).root.Values.ports.bindAddress }}:{{ last . | int }}
{{- end }}

{{- define "preconf.env" -}}
PRECONF_HEALTH_ADDR: {{ include "preconf.listen" (list . .root.Values.ports.health) | quote }}
PRECONF_DRAIN_TIMEOUT_MS: {{ mul (int .values.drain.windowSeconds) 1000 | quote }}
PRECONF_LOG_FORMAT: {{ .root.Values.logging.format }}
RUST_LOG: {{ .root.Values.logging.filter | quote }}
{{- if include "preconf.needsTls" . }}
PRECONF_TLS_CERT: /etc/preconf/tls/tls.crt
PRECONF_TLS_KEY: /etc/preconf/tls/tls.key
PRECONF_TLS_CA: /etc/preconf/tls/ca.crt
{{- end }}
{{ include (printf "preconf.env.%s" .name) . }}
{{- end }}

{{- define "preconf.env.signer" -}}
PRECONF_LISTEN: https://{{ include "preconf.listen" (list . .table.links.sign.port) }}
PRECONF_ALLOW_NAME: {{ include "preconf.allowNames" (dict "root" .root "name" "builder" "more" .values.config.allowNames) }}
PRECONF_CHAIN_ID: {{ .root.Values.chain.id | int64 | quote }}
PRECONF_FLASHBLOCK_SIGNING_KEY: /etc/preconf/key/{{ include "preconf.signingKeyFile" . }}
PRECONF_LEASE_MIN_MS: {{ .values.config.leaseMinMs | int64 | quote }}
PRECONF_LEASE_MAX_MS: {{ .values.config.leaseMaxMs | int64 | quote }}
{{- if .values.config.record.enabled }}
PRECONF_RECORD: /var/lib/preconf/record
{{- end }}
{{- end }}

{{- define "preconf.signingKeyFile" -}}
{{- if .values.config.key.existingSecret.name }}key{{ else }}{{ .values.config.key.csi.file }}{{ end -}}
{{- end }}

{{- define "preconf.env.builder" -}}
{{- $config := .values.config -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
PRECONF_ENGINE_ADDR: {{ include "preconf.listen" (list . .table.public.port) | quote }}
PRECONF_ENGINE_JWT_SECRET: /etc/preconf/engine-jwt/jwt
PRECONF_EXECUTION_ENGINE_URL: {{ $client.engineUrl | quote }}
PRECONF_EXECUTION_JWT_SECRET: /etc/preconf/execution-jwt/jwt
PRECONF_EXECUTION_URL: {{ $client.url | quote }}
{{- with $client.wsUrl }}
PRECONF_EXECUTION_WS_URL: {{ . | quote }}
{{- end }}
PRECONF_GENESIS: /etc/preconf/genesis/genesis.json
PRECONF_SIGNER: {{ $config.signer | default (include "preconf.linkUrl" (dict "root" .root "to" "signer" "link" "sign")) }}
PRECONF_FEED_LISTEN: https://{{ include "preconf.listen" (list . .table.links.feed.port) }}
PRECONF_INGRESS_LISTEN: https://{{ include "preconf.listen" (list . .table.links.ingress.port) }}
{{- if include "preconf.isServed" (dict "root" .root "name" "builder" "link" "payload") }}
PRECONF_PAYLOADS_LISTEN: https://{{ include "preconf.listen" (list . .table.links.payload.port) }}
PRECONF_PAYLOADS_ALLOW_NAME: {{ include "preconf.allowNames" (dict "root" .root "name" "payload-server" "more" $config.payloads.allowNames) }}
{{- with $config.payloads.slotRule }}
PRECONF_SLOT_RULE: {{ . | quote }}
{{- end }}
{{- end }}
{{- if $config.admin.enabled }}
PRECONF_ADMIN_LISTEN: https://{{ include "preconf.listen" (list . .table.links.admin.port) }}
PRECONF_ADMIN_ALLOW_NAME: {{ include "preconf.identity" (dict "root" .root "name" "admin") }}
{{- end }}
PRECONF_PASSTHROUGH: {{ $config.passthrough | quote }}
PRECONF_LEASE_MS: {{ $config.leaseMs | int64 | quote }}
{{- if $config.journal.enabled }}
PRECONF_JOURNAL: /var/lib/preconf/journal
{{- end }}
{{- /* Also of one builder, which heeds it before it has the lease: a second one changes nothing in the first. */}}
{{- if include "preconf.isEnabled" (dict "root" .root "name" "gateway") }}
PRECONF_STANDBY_FEED: {{ include "preconf.linkUrl" (dict "root" .root "to" "gateway" "link" "feed") }}
{{- end }}
PRECONF_FLASHBLOCK_INTERVAL_MS: {{ $config.flashblockIntervalMs | int64 | quote }}
PRECONF_BUILDER_DEADLINE: {{ $config.deadline | quote }}
PRECONF_BUILDER_GASLIMIT: {{ $config.gasLimit | int64 | quote }}
PRECONF_SEAL_BUDGET_MS: {{ $config.sealBudgetMs | int64 | quote }}
PRECONF_STATE_CACHE_ENTRIES: {{ $config.stateCacheEntries | int64 | quote }}
PRECONF_TXPOOL_MINIMUM_PRIORITY_FEE: {{ $config.minimumPriorityFeeWei | int64 | quote }}
PRECONF_TXPOOL_MAX_ACCOUNT_SLOTS: {{ $config.maxAccountSlots | int64 | quote }}
PRECONF_TXPOOL_PRIVATE: {{ $config.privatePool | quote }}
PRECONF_TXPOOL_SPECULATION_PERCENT: {{ $config.speculationPercent | int64 | quote }}
{{- end }}

{{- define "preconf.env.gateway" -}}
{{- $config := .values.config -}}
PRECONF_UPSTREAM: {{ $config.upstream | default (include "preconf.linkUrl" (dict "root" .root "to" "builder" "link" "feed")) }}
PRECONF_SEQUENCER_PUBKEY: {{ join "," .root.Values.chain.sequencerPublicKeys | quote }}
PRECONF_CHAIN_ID: {{ .root.Values.chain.id | int64 | quote }}
PRECONF_FLASHBLOCK_WS_ADDR: {{ include "preconf.listen" (list . .table.public.port) | quote }}
PRECONF_FEED_LISTEN: https://{{ include "preconf.listen" (list . .table.links.feed.port) }}
PRECONF_MAX_CONNECTIONS: {{ $config.maxConnections | int64 | quote }}
PRECONF_REPLAY_SESSIONS: {{ $config.replaySessions | int64 | quote }}
PRECONF_REPLAY_BYTES: {{ $config.replayBytes | int64 | quote }}
PRECONF_REPLAY_BUDGET_BYTES: {{ $config.replayBudgetBytes | int64 | quote }}
PRECONF_REPLAY_BUDGET_TOTAL_BYTES: {{ $config.replayBudgetTotalBytes | int64 | quote }}
PRECONF_REPAIR_PATIENCE_MS: {{ $config.repairPatienceMs | int64 | quote }}
PRECONF_MAX_LAG_MS: {{ $config.maxLagMs | int64 | quote }}
{{- end }}

{{- define "preconf.env.consumer" -}}
{{- $config := .values.config -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
PRECONF_FLASHBLOCKS_URL: {{ $config.feed | default (include "preconf.linkUrl" (dict "root" .root "to" "gateway" "link" "feed")) }}
PRECONF_SEQUENCER_PUBKEY: {{ join "," .root.Values.chain.sequencerPublicKeys | quote }}
PRECONF_POLICY: {{ $config.policy }}
PRECONF_PAYLOAD_ID_CHECK: {{ $config.payloadIdCheck | quote }}
PRECONF_GENESIS: /etc/preconf/genesis/genesis.json
PRECONF_EXECUTION_URL: {{ $client.url | quote }}
{{- with $client.wsUrl }}
PRECONF_EXECUTION_WS_URL: {{ . | quote }}
{{- end }}
PRECONF_EXECUTION_TIMEOUT_MS: {{ $config.executionTimeoutMs | int64 | quote }}
PRECONF_EXECUTION_MAX_BATCH: {{ $config.executionMaxBatch | int64 | quote }}
PRECONF_PENDING_LISTEN: https://{{ include "preconf.listen" (list . .table.links.pending.port) }}
PRECONF_ALLOW_NAME: {{ include "preconf.allowNames" (dict "root" .root "name" "rpc-overlay" "more" $config.allowNames) }}
PRECONF_MAX_OVERLAYS: {{ $config.maxOverlays | int64 | quote }}
PRECONF_MAX_SESSIONS: {{ $config.maxSessions | int64 | quote }}
PRECONF_MAX_SESSION_BYTES: {{ $config.maxSessionBytes | int64 | quote }}
PRECONF_STATE_CACHE: {{ $config.stateCache | int64 | quote }}
{{- end }}

{{- define "preconf.env.rpc-overlay" -}}
{{- $config := .values.config -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
PRECONF_HTTP_ADDR: {{ include "preconf.listen" (list . .table.public.port) | quote }}
PRECONF_PENDING: {{ $config.pending | default (include "preconf.linkUrl" (dict "root" .root "to" "consumer" "link" "pending")) }}
{{- if or $config.ingress (include "preconf.isEnabled" (dict "root" .root "name" "builder")) }}
PRECONF_INGRESS: {{ $config.ingress | default (include "preconf.linkUrl" (dict "root" .root "to" "builder" "link" "ingress")) }}
{{- end }}
PRECONF_EXECUTION_URL: {{ $client.url | quote }}
PRECONF_GENESIS: /etc/preconf/genesis/genesis.json
PRECONF_LATEST: {{ $config.latest }}
PRECONF_RPC_GASCAP: {{ $config.gasCap | int64 | quote }}
PRECONF_MAX_CONNECTIONS: {{ $config.maxConnections | int64 | quote }}
PRECONF_MAX_CONNECTIONS_PER_ADDRESS: {{ $config.maxConnectionsPerAddress | int64 | quote }}
PRECONF_CALL_TIMEOUT_MS: {{ $config.callTimeoutMs | int64 | quote }}
PRECONF_SNAPSHOT_MAX_AGE_MS: {{ $config.snapshotMaxAgeMs | int64 | quote }}
{{- end }}

{{- define "preconf.env.payload-server" -}}
{{- $config := .values.config -}}
PRECONF_PAYLOAD_ADDR: {{ include "preconf.listen" (list . .table.public.port) | quote }}
{{- if $config.tls.existingSecret }}
PRECONF_PAYLOAD_TLS_CERT: /etc/preconf/payload-tls/tls.crt
PRECONF_PAYLOAD_TLS_KEY: /etc/preconf/payload-tls/tls.key
{{- end }}
PRECONF_BUILDER_PAYLOADS: {{ $config.builder | default (include "preconf.linkUrl" (dict "root" .root "to" "builder" "link" "payload")) }}
PRECONF_BUILDER_TIMEOUT_MS: {{ $config.builderTimeoutMs | int64 | quote }}
PRECONF_WHITELIST: /etc/preconf/whitelist/whitelist.json
PRECONF_VALIDATOR_JWTS: /etc/preconf/validator-jwts/validator-jwts.json
{{- with $config.cometbft.url }}
PRECONF_COMETBFT_RPC: {{ . | quote }}
PRECONF_COMETBFT_POLL_MS: {{ $config.cometbft.pollMs | int64 | quote }}
{{- if $config.cometbft.insecurePlaintext }}
PRECONF_INSECURE_PLAINTEXT: "true"
{{- end }}
{{- end }}
{{- if $config.proposers.enabled }}
PRECONF_PROPOSERS_LISTEN: https://{{ include "preconf.listen" (list . .table.links.proposers.port) }}
PRECONF_PROPOSERS_ALLOW_NAME: {{ join "," $config.proposers.allowNames | quote }}
{{- end }}
PRECONF_REQUESTS_PER_SECOND: {{ $config.requestsPerSecond | int64 | quote }}
{{- end }}

{{- define "preconf.env.validator-sidecar" -}}
{{- $config := .values.config -}}
{{- $client := include "preconf.executionClient" . | fromYaml -}}
PRECONF_ENGINE_ADDR: {{ include "preconf.listen" (list . .table.public.port) | quote }}
PRECONF_ENGINE_JWT_SECRET: /etc/preconf/engine-jwt/jwt
PRECONF_EXECUTION_ENGINE_URL: {{ $client.engineUrl | quote }}
PRECONF_EXECUTION_JWT_SECRET: /etc/preconf/execution-jwt/jwt
{{- if $config.admin.enabled }}
PRECONF_ADMIN_LISTEN: https://{{ include "preconf.listen" (list . .table.links.admin.port) }}
PRECONF_ADMIN_ALLOW_NAME: {{ include "preconf.identity" (dict "root" .root "name" "admin") }}
{{- end }}
PRECONF_PASSTHROUGH: {{ $config.passthrough | quote }}
PRECONF_SEQUENCER_URL: {{ join "," $config.sequencers.urls | quote }}
PRECONF_SEQUENCER_JWT_SECRET: /etc/preconf/sequencer-jwt/sequencer-jwt
{{- if $config.sequencers.caCert.existingSecret.name }}
PRECONF_SEQUENCER_CA_CERT: /etc/preconf/sequencer-ca/ca.crt
{{- end }}
PRECONF_SLOT_RULE: {{ $config.slotRule | quote }}
PRECONF_FETCH_BUDGET_MS: {{ $config.fetchBudgetMs | int64 | quote }}
PRECONF_HEDGE_AFTER_MS: {{ $config.hedgeAfterMs | int64 | quote }}
PRECONF_FEE_RECIPIENT: {{ $config.feeRecipient | quote }}
PRECONF_MAX_RESPONSE_BYTES: {{ $config.maxResponseBytes | int64 | quote }}
{{- end }}
