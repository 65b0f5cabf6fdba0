-- An owner goes: it gives back all that it holds, and the last one turns off the light.
if known_epoch() ~= EPOCH then return stale() end
disown(OWNER, ALL)
if redis.call('ZCARD', OWNERS) == 0 then
  redis.call('DEL', unpack(KEYS))
else
  count_free()
  grant()
  if waiting() > 0 then recall() end
  wake()
end
return {'gone'}
