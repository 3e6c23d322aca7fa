-- ARGV: of each period its seconds, its begin, its field and its value.
-- include: usage_text
-- include: history

for i = 1, #ARGV, 4 do add_period(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
