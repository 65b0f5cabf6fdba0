-- An owner goes: it gives back all that it holds, and the last one turns off the light.
if is_stale() then return stale() end
disown(OWNER)
if redis.call('ZCARD', OWNERS) == 0 then
  redis.call('DEL', unpack(KEYS))
else
  grant()
end
return answer()
