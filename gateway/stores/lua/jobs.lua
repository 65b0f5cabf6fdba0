-- The jobs of one pool: what every verb of RedisJobs builds on (it is put before each). Time is Redis's own.
--
-- KEYS  1 root. All other names begin with it and so share its hash tag, which is what Redis Cluster needs:
--   <root>:job:<id>                  hash    state, class, tenant, entry, runner, attempts, arrived_ms, finished_ms, webhook
--   <root>:stream:<class>:<tenant>   stream  an entry per job that is not final; the group's pending entries are taken
--   <root>:waiting:<class>:<tenant>  sorted set  number of arrival -> id, of the jobs nobody has taken yet
--   <root>:turns:<class>             list    tenants that have such jobs, the next one first
--   <root>:tenants:<class>           set     tenants that have a stream
--   <root>:pace                      hash    taken:<ten seconds>, ms:<ten seconds>, since: how fast jobs are taken
--   <root>:hooks                     sorted set  when a message is due, in ms -> id
--   <root>:counts                    hash    entered and turns so far, unfinished now
--
-- A job's state is waiting -> taken -> running -> completed, failed or cancelled; from taken and running a release leads
-- to released, where it stays a pending entry until it is claimed anew.

local ROOT = KEYS[1]
local GROUP = 'runners'
local CLASSES = 3
local PACE_MS, PACES = 10000, 6
local FINAL = { completed = true, failed = true, cancelled = true }

local function job_key(id) return ROOT .. ':job:' .. id end
local function stream_of(class, tenant) return ROOT .. ':stream:' .. class .. ':' .. tenant end
local function waiting_of(class, tenant) return ROOT .. ':waiting:' .. class .. ':' .. tenant end
local function turns_of(class) return ROOT .. ':turns:' .. class end
local function tenants_of(class) return ROOT .. ':tenants:' .. class end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local FIELDS = { 'state', 'class', 'tenant', 'entry', 'runner', 'attempts', 'arrived_ms', 'finished_ms', 'webhook' }

local function load(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] then return nil end
  local job = { id = id }
  for i, field in ipairs(FIELDS) do job[field] = values[i] or '' end
  return job
end

local function forget_entry(class, tenant, entry)
  local stream = stream_of(class, tenant)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream)
    redis.call('SREM', tenants_of(class), tenant)
  end
end

-- How many wait in a class.
local function waiting_in(class)
  local count = 0
  for _, tenant in ipairs(redis.call('LRANGE', turns_of(class), 0, -1)) do
    count = count + redis.call('ZCARD', waiting_of(class, tenant))
  end
  return count
end

-- How many of a class come before a tenant's job that has *rank* of its own before it: tenants take turns, so as many of
-- every other one, and one more of those whose turn comes before the tenant's.
local function waiting_before(class, tenant, rank)
  local count, turns = 0, rank + 1
  for _, other in ipairs(redis.call('LRANGE', turns_of(class), 0, -1)) do
    if other == tenant then turns = rank end
    count = count + math.min(redis.call('ZCARD', waiting_of(class, other)), turns)
  end
  return count
end

local function waiting_in_all()
  local count = 0
  for class = 0, CLASSES - 1 do count = count + waiting_in(class) end
  return count
end

-- Note that so many jobs were taken now and how many still wait. Only time in which some waited counts: how fast jobs are
-- taken that come one by one says nothing about a backlog.
local function note_pace(now, taken, waiting)
  local pace = ROOT .. ':pace'
  local since = redis.call('HGET', pace, 'since')
  if since and taken > 0 then
    local bucket = math.floor(now / PACE_MS)
    redis.call('HINCRBY', pace, 'taken:' .. bucket, taken)
    redis.call('HINCRBY', pace, 'ms:' .. bucket, now - since)
  end
  if waiting == 0 then
    redis.call('HDEL', pace, 'since')
  elseif taken > 0 or not since then
    redis.call('HSET', pace, 'since', now)
    redis.call('PEXPIRE', pace, PACE_MS * PACES)
  end
end

-- The mean time between two jobs being taken while others waited, over the last minute; nil if that did not happen.
local function pace_ms(now)
  local oldest, ms, taken = math.floor(now / PACE_MS) - PACES, 0, 0
  local fields = redis.call('HGETALL', ROOT .. ':pace')
  for i = 1, #fields, 2 do
    local name, bucket = string.match(fields[i], '(%a+):(%d+)')
    if name == nil then
      ms = ms + now - fields[i + 1] -- since the last one was taken
    elseif tonumber(bucket) <= oldest then
      redis.call('HDEL', ROOT .. ':pace', fields[i])
    elseif name == 'ms' then
      ms = ms + fields[i + 1]
    else
      taken = taken + fields[i + 1]
    end
  end
  return taken > 0 and ms / taken or nil
end

-- What JobView shows: id, tenant, state, arrived_ms, finished_ms, position, eta in ms; -1 for what is not known.
local function view(job)
  local rank = redis.call('ZRANK', waiting_of(job.class, job.tenant), job.id)
  local position, eta = -1, -1
  if rank then
    position = 1 + waiting_before(job.class, job.tenant, rank)
    for class = 0, tonumber(job.class) - 1 do position = position + waiting_in(class) end
    local pace = pace_ms(now_ms())
    if pace then eta = math.floor(position * pace) end
  end
  return { job.id, job.tenant, job.state, job.arrived_ms, job.finished_ms, position, eta }
end
