{#- A back end is a minion named in pillar chefha:members. A master is named in pillar chefha_masters (a list). -#}
{%- set members = salt['pillar.get']('chefha:members', {}) or {} %}
{%- set masters = salt['pillar.get']('chefha_masters', ['master']) %}
{%- if grains['id'] in members or grains['id'] in masters %}
include:
  {%- if grains['id'] in members %}
  - chefha.minion
  - chefha.backend
  {%- endif %}
  {%- if grains['id'] in masters %}
  - chefha.master
  {%- endif %}
{%- else %}
chefha_nothing_to_do:
  test.configurable_test_state:
    - changes: False
    - result: False
    - comment: >-
        {{ grains['id'] }} is neither in pillar chefha:members nor in chefha_masters, so there is nothing to lay out here:
        add it to one of them, or do not target it
{%- endif %}
