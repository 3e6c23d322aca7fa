-- Constants of all scripts that read or write rows.

local PARKED = '4611686018427387904'  -- run_at; not exact as a number
local MAX_WORDS = 4000  -- of one command: Lua's unpack() is limited to some thousands
-- Up to FEW holders of the slots of a gate are one field of `slots`: a set of its own for each of many gates would need
-- commands of its own. Such a list is read, changed and written as a whole, so it must stay short. WIDE is the value of
-- one more field: see `slots` in base.lua.
local FEW, WIDE = 8, string.rep('-', 65)
