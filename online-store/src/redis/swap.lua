-- Sets KEYS[1] to ARGV[2] where it holds ARGV[1]; an empty ARGV[1] stands for a key that is not there.
if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
  return 1
end
return 0
