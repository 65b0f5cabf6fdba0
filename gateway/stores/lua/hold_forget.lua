-- Drop what a dead owner spent and held of all accounts of one hash tag: the Journal has it.
-- KEYS: the names of its accounts. ARGV: the owner, what the accounts' keys begin with.

for _, name in ipairs(redis.call("SMEMBERS", KEYS[1])) do
  local key = ARGV[2] .. name
  if redis.call("HDEL", key, "s:" .. ARGV[1], "h:" .. ARGV[1]) == 0 and redis.call("EXISTS", key) == 0 then
    redis.call("SREM", KEYS[1], name)
  end
end
return {}
