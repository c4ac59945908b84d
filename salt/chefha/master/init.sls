# The reactor of the failover, and a unit that restarts. The master is restarted for a new reactor when no job is under
# way any more: the highstate that asks for it is one.

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
