# REVISION=$(git rev-parse HEAD) docker buildx bake -f deploy/images/bake.hcl [--push] [SERVICE...]
#
# The revision is what `--version`, build_info and the labels say; git is not among what is built from.
#
# Each image carries a list of its parts (SBOM) and how it was made (provenance); they can be attached
# only to what is pushed or written as OCI, so they are switched off for a local build with
# `--provenance=false --sbom=false`.
variable "REGISTRY" { default = "localhost" }
variable "VERSION" { default = "dev" }
variable "REVISION" { default = "unknown" }
# What the nodes have at least, as `rustc -C target-cpu` names it; the Dockerfile's baseline if empty.
variable "CPU" { default = "" }
variable "SERVICES" {
  default = ["signer", "builder", "gateway", "consumer", "rpc-overlay", "payload-server", "validator-sidecar"]
}

group "default" { targets = ["image"] }

target "image" {
  name       = service
  matrix     = { service = SERVICES }
  context    = "."
  dockerfile = "deploy/images/Dockerfile"
  args       = { SERVICE = service, VERSION = VERSION, REVISION = REVISION, CPU = CPU }
  tags       = ["${REGISTRY}/preconf/${service}:${VERSION}"]
  attest     = ["type=sbom", "type=provenance,mode=max"]
}
