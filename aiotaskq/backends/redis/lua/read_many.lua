-- ARGV: packed commands that read, each as its name, its key and its other words. Returns the answer of each.
local answers = {}
for i, words in ipairs(cmsgpack.unpack(ARGV[1])) do
  words[2] = KEYS[1] .. words[2]
  answers[i] = redis.call(unpack(words))
end
return answers
