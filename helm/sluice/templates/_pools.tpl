{{/* sluice.yaml: the settings, and the pools and models as they are declared, without what only Kubernetes needs. */}}
{{- define "sluice.yaml" -}}
{{- $pools := dict -}}
{{- range $name, $pool := .Values.pools -}}
{{- $_ := set $pools $name (omit $pool "kubernetes") -}}
{{- end -}}
{{- merge (dict "pools" $pools "models" .Values.models) .Values.gateway.settings | toYaml -}}
{{- end }}

{{- define "sluice.workersMin" -}}
{{- $workers := default dict .pool.workers -}}
{{ hasKey $workers "min" | ternary $workers.min 1 | int }}
{{- end }}

{{- define "sluice.workersMax" -}}
{{- $workers := default dict .pool.workers -}}
{{ hasKey $workers "max" | ternary $workers.max (max 1 (include "sluice.workersMin" . | int)) | int }}
{{- end }}

{{/* Over how many GPUs an engine is split: within its layers, and by its layers. */}}
{{- define "sluice.tensor" -}}
{{- $gpus := default 1 .pool.gpus_per_worker -}}
{{ kindIs "map" $gpus | ternary (kindIs "map" $gpus | ternary $gpus dict | dig "tensor" 1) $gpus | int }}
{{- end }}

{{- define "sluice.pipeline" -}}
{{- $gpus := default 1 .pool.gpus_per_worker -}}
{{ kindIs "map" $gpus | ternary $gpus dict | dig "pipeline" 1 | int }}
{{- end }}

{{- define "sluice.drainSeconds" -}}
{{ hasKey .pool "drain_s" | ternary .pool.drain_s 60 | ceil | int }}
{{- end }}

{{/* GPUs of one pod: those of the worker, spread over its nodes. */}}
{{- define "sluice.gpus" -}}
{{- $own := default dict .pool.kubernetes -}}
{{- $nodes := int (default 1 $own.nodes) -}}
{{- $gpus := mul (include "sluice.tensor" . | int) (include "sluice.pipeline" . | int) | int -}}
{{- if ne (mod $gpus $nodes) 0 -}}
{{- fail (printf "pools.%s takes %d GPUs (gpus_per_worker), which %d nodes cannot share evenly." .name $gpus $nodes) -}}
{{- end -}}
{{ div $gpus $nodes }}
{{- end }}

{{/* What Kubernetes calls the pool's accelerator; empty for CPUs. Of most names, such as H200, it is NVIDIA's. */}}
{{- define "sluice.resourceName" -}}
{{- $accelerator := default "" .pool.accelerator | lower -}}
{{- $own := default dict .pool.kubernetes -}}
{{- if hasKey $own "resourceName" -}}
{{ $own.resourceName }}
{{- else if hasPrefix "ascend" $accelerator -}}
huawei.com/Ascend910
{{- else if regexMatch "^(amd|mi[0-9])" $accelerator -}}
amd.com/gpu
{{- else if ne $accelerator "cpu" -}}
nvidia.com/gpu
{{- end -}}
{{- end }}

{{/* Limits of a worker's container: its resources with the accelerators put in. */}}
{{- define "sluice.workerResources" -}}
{{- $own := default dict .pool.kubernetes -}}
{{- $resources := deepCopy (default .root.Values.worker.resources $own.resources) -}}
{{- $name := include "sluice.resourceName" . -}}
{{- if $name -}}
{{- $gpus := include "sluice.gpus" . | int -}}
{{- range list $resources.requests $resources.limits -}}
{{- $_ := set . $name $gpus -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* Where agents send their beats: each gateway that always runs, and the Service for those that come and go; or where one says. */}}
{{- define "sluice.gatewayArguments" -}}
{{- $name := include "sluice.fullname" .root -}}
{{- $scaling := .root.Values.gateway.autoscaling -}}
{{- range default .root.Values.worker.gateways (default dict .pool.kubernetes).gateways }}
- --gateway={{ . }}
{{- else }}
{{- range $number := until (ternary $scaling.min .root.Values.gateway.replicas $scaling.enabled | int) }}
- --gateway=http://{{ $name }}-gateway-{{ $number }}.{{ $name }}-gateway-peers:8080
{{- end }}
{{- if $scaling.enabled }}
- --gateway=http://{{ $name }}-gateway:{{ .root.Values.gateway.service.port }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a pool's workers show and trust, as JSON: its own, else that of all. */}}
{{- define "sluice.workerTls" -}}
{{- $own := default dict .pool.kubernetes -}}
{{ hasKey $own "tls" | ternary $own.tls .root.Values.worker.tls | toJson }}
{{- end }}

{{/* The Secret of the certificate that a pool's engines show; empty: they serve http. */}}
{{- define "sluice.engineCertificate" -}}
{{ include "sluice.workerTls" . | fromJson | dig "existingSecret" "" }}
{{- end }}

{{/* A Service without an address of its own, so that each of a pool's engines has a name, and what their names end in. */}}
{{- define "sluice.enginesName" -}}
{{ include "sluice.poolName" (dict "root" .root "pool" .name) }}-engines
{{- end }}

{{- define "sluice.enginesDomain" -}}
{{ include "sluice.enginesName" . }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* The arguments of `sluice worker`, the same on every node of a group: LeaderWorkerSet's variables say which is which. */}}
{{- define "sluice.workerArguments" -}}
{{- $own := default dict .pool.kubernetes -}}
- worker
- --model={{ .pool.model }}
{{- with .pool.revision }}
- --revision={{ . }}
{{- end }}
- --pool={{ .name }}
{{- range default (list .name) .pool.serves }}
- --served-name={{ . }}
{{- end }}
- --worker-id=$(POD_NAME)
- --host=0.0.0.0
{{- if include "sluice.engineCertificate" . }}
- --tls-cert=/etc/sluice-tls/tls.crt
- --tls-key=/etc/sluice-tls/tls.key
{{- else }}
- --advertise-host=$(POD_IP)
{{- end }}
{{- if include "sluice.workerTls" . | fromJson | dig "ca" "existingSecret" "" }}
- --ca-file=/etc/sluice-ca/ca.crt
{{- end }}
- --port={{ .root.Values.worker.port }}
- --home=/var/lib/sluice
{{- if $own.cache }}
- --models-dir=/models
{{- end }}
{{- range $option := list "tensor" "pipeline" }}
{{- $size := include (printf "sluice.%s" $option) $ }}
{{- if ne $size "1" }}
- --{{ $option }}-parallel-size={{ $size }}
{{- end }}
{{- end }}
- --max-num-seqs={{ default .root.Values.worker.maxNumSeqs $own.maxNumSeqs }}
- --start-s={{ default .root.Values.worker.startupSeconds $own.startupSeconds }}
- --drain-s={{ include "sluice.drainSeconds" . }}
{{- range $name, $source := .pool.adapters }}
- --adapter={{ $name }}={{ $source }}
{{- end }}
{{- include "sluice.gatewayArguments" . }}
{{- range .pool.engine_args }}
- {{ printf "--engine-arg=%s" . | quote }}
{{- end }}
{{- end }}
