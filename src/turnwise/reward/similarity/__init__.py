"""Options of the group `reward/similarity`: how alike two programs are, for shaping."""
