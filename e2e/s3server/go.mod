module github.com/hearth-metrics/hearth/e2e/s3server

go 1.26.0

require github.com/versity/versitygw v1.8.0 // indirect
