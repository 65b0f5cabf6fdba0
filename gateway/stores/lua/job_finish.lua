-- Note how a job ended; gives 1 if it had not before.
-- ARGV  1 id, 2 final state, 3 for how long to remember it, in ms.
local job = load(ARGV[1])
if not job or FINAL[job.state] then return 0 end
local line = waiting_of(job.class, job.tenant)
if redis.call('ZREM', line, job.id) == 1 and redis.call('ZCARD', line) == 0 then
  redis.call('LREM', turns_of(job.class), 0, job.tenant)
end
forget_entry(job.class, job.tenant, job.entry)
redis.call('HINCRBY', ROOT .. ':counts', 'unfinished', -1)
local now = now_ms()
redis.call('HSET', job_key(job.id), 'state', ARGV[2], 'runner', '', 'finished_ms', now)
redis.call('PEXPIRE', job_key(job.id), ARGV[3])
if job.webhook ~= '' then redis.call('ZADD', ROOT .. ':hooks', now, job.id) end
return 1
