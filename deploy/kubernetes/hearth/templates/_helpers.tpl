{{- /* The name of everything: the release, and the chart unless that says so. */ -}}
{{- define "hearth.name" -}}
{{- $name := ternary .Release.Name (printf "%s-hearth" .Release.Name) (contains "hearth" .Release.Name) -}}
{{- $name | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- /* What the mode runs: the kind that keeps data, and those that keep none. */ -}}
{{- define "hearth.stateful" -}}
{{- get (dict "single" "all" "readwrite" "write" "microservices" "ingester") .Values.mode -}}
{{- end -}}
{{- define "hearth.stateless" -}}
{{- get (dict "single" "" "readwrite" "read backend" "microservices" "distributor querier storegateway") .Values.mode -}}
{{- end -}}

{{- /* Who takes writes, and who answers queries. */ -}}
{{- define "hearth.push" -}}
{{- get (dict "single" "all" "readwrite" "write" "microservices" "distributor") .Values.mode -}}
{{- end -}}
{{- define "hearth.query" -}}
{{- get (dict "single" "all" "readwrite" "read" "microservices" "querier") .Values.mode -}}
{{- end -}}

{{- define "hearth.selector" -}}
app.kubernetes.io/name: hearth
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hearth.labels" -}}
{{ include "hearth.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* Hearth's configuration: the user's, and on top of it what the chart knows. */ -}}
{{- define "hearth.config" -}}
{{- $ours := dict
  "data_dir" "/data"
  "server" (dict "http_listen_address" ":9009" "grpc_listen_address" ":9095")
  "instance" (dict "id" "${POD_NAME}" "zone" "${ZONE}" "advertise_address" "${POD_IP}")
  "memberlist" (dict
    "bind_port" 7946
    "join" (printf "dns+%s-members.%s.svc:7946" (include "hearth.name" .) .Release.Namespace)
    "cluster_label" (printf "%s/%s" .Release.Namespace (include "hearth.name" .)))
-}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $ours) -}}
{{- end -}}

{{- /* What would be found out only by a cluster that does not come up. */ -}}
{{- define "hearth.check" -}}
{{- $copies := dig "ring" "replication_factor" 0 .Values.config | int | default 3 -}}
{{- if lt (len .Values.zones) $copies -}}
{{- fail (printf "zones: %d copies of each series need as many zones, there are %d; name more, or lower config.ring.replication_factor" $copies (len .Values.zones)) -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.zones -}}{{- $names = append $names .name -}}{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- fail "zones: each name may be there once" -}}
{{- end -}}
{{- $bucket := dig "bucket" dict .Values.config -}}
{{- if eq (dig "type" "filesystem" $bucket) "s3" -}}
{{- if or (not (dig "s3" "endpoint" "" $bucket)) (not (dig "s3" "bucket" "" $bucket)) -}}
{{- fail "config.bucket.s3: set endpoint and bucket" -}}
{{- end -}}
{{- else if or (ne .Values.mode "single") (gt (mul (len .Values.zones) .Values.replicasPerZone) 1) -}}
{{- fail "config.bucket: a folder is seen by one pod only; use type s3" -}}
{{- end -}}
{{- end -}}

{{- /* A pod of a kind. Takes root, kind, zone (empty where no data is kept). */ -}}
{{- define "hearth.pod" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $nodes := dig "nodeSelector" dict (.zone | default dict) -}}
metadata:
  labels:
    {{- include "hearth.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .kind }}
    {{- with .zone }}
    hearth/zone: {{ .name }}
    {{- end }}
  annotations:
    # Another configuration is another pod.
    checksum/config: {{ include "hearth.config" $root | sha256sum }}
spec:
  {{- with $v.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # 5 s before the signal, 30 s for requests, up to 2 minutes for the last write to disk.
  terminationGracePeriodSeconds: 180
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $nodes }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and .zone $v.spreadOverNodes (not $nodes) }}
  affinity:
    podAntiAffinity:
      # What takes a node takes one zone with it, and no more.
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "hearth.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ .kind }}
            matchExpressions:
              - {key: hearth/zone, operator: NotIn, values: [{{ .zone.name | quote }}]}
  {{- end }}
  topologySpreadConstraints:
    - topologyKey: {{ ternary "kubernetes.io/hostname" "topology.kubernetes.io/zone" (not (empty .zone)) }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "hearth.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .kind }}
          {{- with .zone }}
          hearth/zone: {{ .name }}
          {{- end }}
  containers:
    - name: hearth
      image: {{ printf "%s:%s" $v.image.repository ($v.image.tag | default $root.Chart.AppVersion) }}
      args: ["-config", "/etc/hearth/config.yaml", "-target", {{ .kind | quote }}]
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        # Spreading replicas over zones is on where a process has one itself,
        # so those that keep no data have one too. It is not among the members.
        - name: ZONE
          value: {{ if .zone }}{{ .zone.name | quote }}{{ else }}"none"{{ end }}
      {{- with $v.secretName }}
      envFrom:
        - secretRef: {name: {{ . }}}
      {{- end }}
      ports:
        - {name: http, containerPort: 9009}
        - {name: grpc, containerPort: 9095}
        - {name: gossip, containerPort: 7946}
      # It answers while recent data is read from disk, which can take minutes.
      livenessProbe:
        httpGet: {path: /-/healthy, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /ready, port: http}
        periodSeconds: 5
        timeoutSeconds: 3
      {{- if ne .kind "ingester" }}
      # Services learn a little later than the process that it ends.
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      {{- end }}
      resources:
        {{- toYaml (ternary $v.resources.stateful $v.resources.stateless (not (empty .zone))) | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - {name: config, mountPath: /etc/hearth, readOnly: true}
        - {name: data, mountPath: /data}
  volumes:
    - name: config
      configMap: {name: {{ include "hearth.name" $root }}}
    {{- if not .zone }}
    # Caches.
    - name: data
      emptyDir: {}
    {{- end }}
{{- end -}}
