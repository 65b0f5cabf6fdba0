-- What owners have under way, hold and have spent: hashes by owner. An owner whose lease is over has nothing under way
-- and holds nothing; what it spent stays until it is forgotten.

local YEAR_MS = 400 * 86400 * 1000

local function living(owners_key, owner, lease_s, now)
  redis.call("ZADD", owners_key, string.format("%.6f", now + lease_s), owner)
  redis.call("ZREMRANGEBYSCORE", owners_key, "-inf", string.format("(%.6f", now))
  redis.call("PEXPIRE", owners_key, YEAR_MS)
  local found = {}
  for _, name in ipairs(redis.call("ZRANGE", owners_key, 0, -1)) do found[name] = true end
  return found
end

local function load_running(key, owner, alive, own)
  local running = {others = 0, own = own}
  local fields = redis.call("HGETALL", key)
  for at = 1, #fields, 2 do
    if not alive[fields[at]] then
      redis.call("HDEL", key, fields[at])
    elseif fields[at] ~= owner then
      running.others = running.others + tonumber(fields[at + 1])
    end
  end
  return running
end

local function save_running(key, owner, running)
  if running.own > 0 then
    redis.call("HSET", key, owner, running.own)
    redis.call("PEXPIRE", key, YEAR_MS)
  else
    redis.call("HDEL", key, owner)
  end
end

-- said: what the caller says of the account: {key, name, version or "", base, held, spent, expires_ms or ""}.
local function load_account(key, owner, alive, said)
  local account = {held = number(said[5]), spent = number(said[6]), own_held = number(said[5])}
  local fields = redis.call("HGETALL", key)
  for at = 1, #fields, 2 do
    local kind, name = fields[at]:match("^(%a+):(.*)$")
    if fields[at] == "version" then account.version = fields[at + 1]
    elseif fields[at] == "base" then account.base = number(fields[at + 1])
    elseif kind == "h" and not alive[name] then redis.call("HDEL", key, fields[at])
    elseif kind == "h" and name ~= owner then account.held = plus(account.held, number(fields[at + 1]))
    elseif kind == "s" and name ~= owner then account.spent = plus(account.spent, number(fields[at + 1]))
    end
  end
  if said[3] ~= "" and (not account.version or tonumber(said[3]) > tonumber(account.version)) then
    account.version, account.base = said[3], number(said[4])
    redis.call("HSET", key, "version", account.version, "base", said[4])
  end
  return account
end

local function available(account, amount)
  return minus(minus(minus(number(amount), account.base or {0, 0}), account.spent), account.held)
end

local function put_sum(key, field, sum)
  if is_zero(sum) then redis.call("HDEL", key, field) else redis.call("HSET", key, field, text_of(sum)) end
end

local function save_account(names_key, key, owner, account, said)
  put_sum(key, "h:" .. owner, account.own_held)
  put_sum(key, "s:" .. owner, number(said[6]))
  if redis.call("EXISTS", key) == 0 then return end
  if said[7] ~= "" then
    redis.call("PEXPIREAT", key, said[7])
  elseif redis.call("PTTL", key) < YEAR_MS / 2 then
    redis.call("PEXPIRE", key, YEAR_MS)
  end
  redis.call("SADD", names_key, said[2])
  redis.call("PEXPIRE", names_key, YEAR_MS)
end
