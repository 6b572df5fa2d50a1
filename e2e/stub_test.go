package e2e

type stubS3 struct{}

func (stubS3) stop() {}

var s3 stubS3
