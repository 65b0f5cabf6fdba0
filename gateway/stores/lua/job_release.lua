-- Give a job back, to be claimed once it has idled for the rest of the lease.
-- ARGV  1 runner, 2 id, 3 idle already, in ms, 4 whether this was an attempt: 1 or 0.
local job = load(ARGV[2])
if not job or job.runner ~= ARGV[1] or FINAL[job.state] then return 0 end
redis.call('XCLAIM', stream_of(job.class, job.tenant), GROUP, ARGV[1], 0, job.entry, 'IDLE', ARGV[3], 'JUSTID')
redis.call('HSET', job_key(job.id), 'state', 'released', 'runner', '')
if ARGV[4] == '0' then redis.call('HINCRBY', job_key(job.id), 'attempts', -1) end
return 1
