-- Constants of all scripts that read or write rows.

local PARKED = '4611686018427387904'  -- run_at; not exact as a number
local MAX_WORDS = 4000  -- of one command: Lua's unpack() is limited to some thousands
