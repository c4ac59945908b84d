# The reactor of the failover, the way of the secrets to the members, and a unit that restarts. The master is restarted
# for a new configuration when no job is under way any more: the highstate that asks for it is one.
{#- the user who runs salt-master, who alone may read the secrets #}
{%- set owner = salt['file.get_user']('/etc/salt/pki/master') if salt['file.directory_exists']('/etc/salt/pki/master') else 'root' %}

# The runner and the ext_pillar need it in the master's Python, which is this minion's.
chefha_master_library:
  chefha.library: []

/etc/salt/chefha:
  file.directory:
    - user: {{ owner }}
    - mode: '0700'

/etc/salt/master.d/chefha-secrets.conf:
  file.managed:
    - source: salt://chefha/master/files/chefha-secrets.conf
    - mode: '0644'
    - require:
      - chefha: chefha_master_library

/etc/salt/master.d/chefha-reactor.conf:
  file.managed:
    - source: salt://chefha/master/files/chefha-reactor.conf
    - mode: '0644'

/etc/systemd/system/salt-master.service.d/chefha.conf:
  file.managed:
    - source: salt://chefha/master/files/salt-master.conf
    - mode: '0644'
    - makedirs: True

chefha_master_reload_units:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: /etc/systemd/system/salt-master.service.d/chefha.conf

/usr/local/sbin/chefha-restart-master:
  file.managed:
    - source: salt://chefha/master/files/restart-when-idle.sh
    - mode: '0755'

chefha_master_restart:
  cmd.run:
    - name: systemd-run --collect --unit=chefha-restart-master /usr/local/sbin/chefha-restart-master
    - require:
      - file: /usr/local/sbin/chefha-restart-master
      - cmd: chefha_master_reload_units
    - onchanges:
      - file: /etc/salt/master.d/chefha-reactor.conf
      - file: /etc/salt/master.d/chefha-secrets.conf
