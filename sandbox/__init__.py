"""An EM volume, its CAVE server and a bucket, made up on this machine."""
