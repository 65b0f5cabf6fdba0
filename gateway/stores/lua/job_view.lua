-- Tell how a job stands.
-- ARGV  1 id.
local job = load(ARGV[1])
return job and view(job) or {}
